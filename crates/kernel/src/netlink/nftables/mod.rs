//! Tables of nf_tables, changed in atomic transactions (linux/netfilter/nf_tables.h; nft(8)).
//!
//! A [`Transaction`] is one datagram: begin, the changes in order, end. The kernel carries out all of it or nothing, and
//! packets see the rules of before or of after. Only what Hull's own rules need is here: tables, chains, sets and
//! maps with their elements, and the expressions of [`Expression`]; for reading, the base chains of every table
//! ([`base_chains`]), since those are what decides over a packet besides Hull's own.
//!
//! What a listing by nft(8) needs is given as well: the types of keys and values, which the kernel does not look at.

mod base_chains;
mod expression;
mod set;

use std::io;

pub use base_chains::{BaseChain, Policy, base_chains, table_names};
pub use expression::{Condition, Expression, Field, Register, Verdict};
pub use set::{Element, Field as KeyField, Set, interface};

use super::netfilter::{self, ACK, APPEND, Answer, Attributes, CREATE, Head, Netfilter, REQUEST};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
const DELETE_ELEMENTS: u16 = 14;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
/// An attribute's length is 16 bits, so a list of elements is split well before that.
const ELEMENTS_BYTES_MAX: usize = 48 << 10;

/// Rules that were not changed, or not read.
#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    /// The kernel refused a change; nothing of the transaction was done.
    #[error("the firewall table {table:?}: {change}")]
    Refused {
        /// Which table.
        table: String,
        /// What was being done.
        change: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel did not say that a transaction was done.
    #[error("the firewall table {0:?}: the kernel gave no answer")]
    Unanswered(String),
    /// The conversation broke.
    #[error("speaking with the kernel's firewall (nf_tables)")]
    Socket(#[source] io::Error),
}

impl NftablesError {
    /// The kernel's reason.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NftablesError::Refused { source, .. } | NftablesError::Socket(source) => source.raw_os_error(),
            NftablesError::Unanswered(_) => None,
        }
    }
}

/// Where a chain sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Every arriving packet.
    Prerouting = 0,
    /// What is for this host.
    Input = 1,
    /// What passes through.
    Forward = 2,
    /// What this host sends.
    Output = 3,
    /// Every leaving packet.
    Postrouting = 4,
}

/// Of what type a chain with a hook is, and its place among those of the same hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Where it sees packets.
    pub hook: Hook,
    /// Lower ones come first.
    pub priority: i32,
}

/// Changes of one table of the `inet` family, to be carried out at once.
#[derive(Debug, Clone)]
pub struct Transaction {
    table: String,
    requests: Vec<u8>,
    /// What each change is, for an error that names it.
    changes: Vec<String>,
    sets: u32,
    /// Whether anything is removed.
    removes: bool,
}

impl Transaction {
    /// No changes yet.
    pub fn on(table: &str) -> Transaction {
        let (requests, changes) = (Vec::new(), Vec::new());
        let mut transaction = Transaction { table: table.to_owned(), requests, changes, sets: 0, removes: false };
        transaction.bracket(BATCH_BEGIN, 0);
        transaction
    }

    /// The table, if it is not there.
    pub fn add_table(&mut self) -> &mut Self {
        let attributes = self.named(1);
        self.push(NEW_TABLE, CREATE, "adding it".to_owned(), &attributes)
    }

    /// The table and everything in it.
    pub fn delete_table(&mut self) -> &mut Self {
        self.removes = true;
        let attributes = self.named(1);
        self.push(DELETE_TABLE, 0, "deleting it".to_owned(), &attributes)
    }

    /// A chain; one without a base is jumped to. Packets that reach its end are accepted.
    pub fn add_chain(&mut self, name: &str, base: Option<Base>) -> &mut Self {
        let mut attributes = self.named(1);
        attributes.text(3, name);
        if let Some(base) = base {
            attributes.nested(4, |hook| {
                hook.number(1, base.hook as u32).number(2, base.priority as u32);
            });
            attributes.number(5, 1).text(7, base.kind);
        }
        self.push(NEW_CHAIN, CREATE, format!("adding chain {name}"), &attributes)
    }

    /// A rule at the end of a chain.
    pub fn add_rule(&mut self, chain: &str, expressions: &[Expression]) -> &mut Self {
        let mut attributes = self.named(1);
        attributes.text(2, chain).nested(4, |list| {
            for expression in expressions {
                list.nested(1, |one| expression.encode(one));
            }
        });
        self.push(NEW_RULE, CREATE | APPEND, format!("adding a rule to chain {chain}"), &attributes)
    }

    /// A set, or a map when it has values.
    pub fn add_set(&mut self, set: &Set) -> &mut Self {
        self.sets += 1;
        let mut attributes = self.named(1);
        set.encode(self.sets, &mut attributes);
        self.push(NEW_SET, CREATE, format!("adding set {}", set.name), &attributes)
    }

    /// Elements of a set; one that is there already is left as it is.
    pub fn add_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(NEW_ELEMENTS, CREATE, set, elements, "adding elements to")
    }

    /// Elements out of a set; one that is not there is an error (`ENOENT`).
    pub fn delete_elements(&mut self, set: &str, elements: &[Element]) -> &mut Self {
        self.removes = true;
        self.elements(DELETE_ELEMENTS, 0, set, elements, "deleting elements from")
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element], change: &str) -> &mut Self {
        let mut rest = elements;
        while !rest.is_empty() {
            let mut list = Attributes::default();
            let mut taken = 0;
            while let Some(element) = rest.get(taken).filter(|_| list.0.len() < ELEMENTS_BYTES_MAX) {
                list.nested(1, |one| element.encode(one));
                taken += 1;
            }
            rest = &rest[taken..];
            let mut attributes = self.named(1);
            attributes.text(2, set).bytes(3 | 0x8000, &list.0);
            self.push(kind, flags, format!("{change} {set}"), &attributes);
        }
        self
    }

    /// Carries it out.
    ///
    /// # Errors
    /// [`NftablesError`]; nothing has changed then.
    pub fn commit(mut self) -> Result<(), NftablesError> {
        if self.changes.is_empty() {
            return Ok(());
        }
        self.ask_for_answer();
        let last = self.changes.len() as u32;
        self.bracket(BATCH_END, last + 1);
        let socket = Netfilter::open().map_err(NftablesError::Socket)?;
        let answers = socket.tell(&self.requests).map_err(NftablesError::Socket);
        if self.removes {
            socket.close_without_waiting();
        }
        let mut answered = false;
        for answer in answers? {
            match answer {
                Answer::Verdict { sequence, result: Err(source) } => return Err(self.refused(sequence, source)),
                Answer::Verdict { sequence, result: Ok(()) } => answered |= sequence == last,
                Answer::Thing { .. } => {}
            }
        }
        if answered { Ok(()) } else { Err(NftablesError::Unanswered(self.table)) }
    }

    fn refused(&self, sequence: u32, source: io::Error) -> NftablesError {
        let change = (sequence as usize).checked_sub(1).and_then(|at| self.changes.get(at));
        let change = change.cloned().unwrap_or_else(|| "committing the changes".to_owned());
        NftablesError::Refused { table: self.table.clone(), change, source }
    }

    /// Has the kernel confirm the last change, which it does after the commit.
    fn ask_for_answer(&mut self) {
        let mut at = 0;
        let mut last = 0;
        while let Some(length) = self.requests.get(at..at + 4) {
            last = at;
            at += u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
        }
        let flags = u16::from_ne_bytes([self.requests[last + 6], self.requests[last + 7]]) | ACK;
        self.requests[last + 6..last + 8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn named(&self, kind: u16) -> Attributes {
        let mut attributes = Attributes::default();
        attributes.text(kind, &self.table);
        attributes
    }

    fn push(&mut self, kind: u16, flags: u16, change: String, attributes: &Attributes) -> &mut Self {
        self.changes.push(change);
        let sequence = self.changes.len() as u32;
        let head = Head { kind: SUBSYSTEM << 8 | kind, flags: REQUEST | flags, sequence, family: INET, resource: 0 };
        netfilter::append(&mut self.requests, &head, attributes);
        self
    }

    fn bracket(&mut self, kind: u16, sequence: u32) {
        let head = Head { kind, flags: REQUEST, sequence, family: 0, resource: SUBSYSTEM };
        netfilter::append(&mut self.requests, &head, &Attributes::default());
    }
}
