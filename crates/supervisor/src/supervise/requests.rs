//! Clients: arriving, asking, leaving.
//!
//! A client that breaks the protocol is dropped with a message. One that leaves takes nothing with it: what it had sent
//! to a session's stdin is still written, and the session goes on (with its stdin closed if it was launched that way).

use std::os::fd::{AsFd, OwnedFd};

use super::Supervisor;
use super::connection::{Attachment, CleanupPromise, Connection, Early};
use super::poller::{Readiness, Source};
use crate::protocol::{AttachFlags, OLDEST_VERSION, Reply, Request, STDIN_WINDOW, StatusReport, VERSION};

impl Supervisor {
    pub(super) fn add_connection(&mut self, socket: OwnedFd) -> Option<&mut Connection> {
        let number = self.next_connection;
        self.next_connection = self.next_connection.wrapping_add(1);
        // Without a place in epoll the client could never be heard: closing the socket tells it.
        self.poller.watch(&socket, Source::Connection(number)).ok()?;
        self.connections.push(Connection::new(number, socket));
        self.connections.last_mut()
    }

    /// The client that was handed to us at the start: attached to session 0 from the first byte.
    pub(super) fn add_first_client(&mut self, socket: OwnedFd, flags: AttachFlags) {
        if let Some(connection) = self.add_connection(socket) {
            connection.greeted = true;
            connection.attached = Some(Attachment { session: 0, flags });
            // It started the container and stays to its end; a short container may end before it could say so.
            connection.cleanup = CleanupPromise::Made;
        }
    }

    pub(super) fn take_connection_event(&mut self, number: u32, ready: Readiness) {
        let mut buffer = self.take_buffer();
        let mut received = None;
        if let Some(connection) = self.connection(number) {
            if ready.writable {
                connection.flush();
            }
            if ready.readable {
                received = connection.receive(&mut buffer).filter(|_| connection.is_open());
            }
        }
        if let Some(length) = received {
            match Request::decode(&buffer[..length]) {
                Ok(request) => self.answer(number, &request),
                Err(malformed) => self.drop_connection(number, &malformed.to_string()),
            }
        }
        self.buffer = buffer;
    }

    fn answer(&mut self, number: u32, request: &Request<'_>) {
        let Some(connection) = self.connection(number) else { return };
        if !connection.greeted && !matches!(request, Request::Hello { .. }) {
            return connection.drop_with("the first frame is not Hello");
        }
        match *request {
            Request::Hello { version } => self.welcome(number, version),
            Request::Attach { session, flags } => self.attach(number, session, flags),
            Request::Stdin(data) => self.take_stdin(number, data),
            Request::StdinClose => self.close_stdin(number),
            Request::Resize { rows, columns } => self.resize(number, rows, columns),
            Request::Signal { session, signal } => self.signal(number, session, signal),
            Request::Exec { file, attach } => self.take_exec(number, file, attach),
            Request::Wait { session } => self.wait_for(number, session),
            Request::Status => self.report_status(number),
            Request::FindNames => self.find_names_now(number),
            Request::CleanupMine => connection.cleanup = CleanupPromise::Made,
            Request::CleanupBegin => self.grant_cleanup(number),
            Request::CleanupDone => self.take_cleanup_done(number),
        }
    }

    fn find_names_now(&mut self, number: u32) {
        if self.names.is_none() {
            let process = self.session(0).map(|session| session.pidfd.try_clone());
            match process {
                Some(Ok(process)) => self.find_names(process),
                Some(Err(error)) => self.note("hold the container's process", Err(error)),
                None => {}
            }
        }
        if let Some(connection) = self.connection(number) {
            connection.reply(&Reply::Done);
        }
    }

    fn welcome(&mut self, number: u32, version: u16) {
        let Some(connection) = self.connection(number) else { return };
        if version < OLDEST_VERSION {
            return connection.drop_with("this supervisor no longer speaks that version of the protocol");
        }
        connection.greeted = true;
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        connection.reply(&Reply::Welcome { version: version.min(VERSION), pid });
    }

    fn attach(&mut self, number: u32, session: u32, flags: AttachFlags) {
        let pending = self.is_pending(session);
        let pid = self.session(session).map(|session| session.pid);
        let finished = self.finished.iter().find(|exited| exited.session == session).copied();
        let Some(connection) = self.connection(number) else { return };
        if connection.attached.is_some_and(|attached| attached.session != session) {
            return refuse(connection, "this connection is attached to another session");
        }
        if pid.is_some() || pending {
            connection.attached = Some(Attachment { session, flags });
        }
        match (pid, finished) {
            (Some(pid), _) => connection.reply(&Reply::Started { session, pid }),
            (None, Some(exited)) => connection.reply(&Reply::Exited(exited)),
            (None, None) if pending => {}
            (None, None) => refuse(connection, "there is no such session"),
        }
    }

    /// Input for the attached session: queued, kept until the launch, or thrown away when there is no reader.
    fn take_stdin(&mut self, number: u32, data: &[u8]) {
        let Some(connection) = self.connection(number) else { return };
        let Some(Attachment { session, flags: AttachFlags { stdin: true, .. } }) = connection.attached else {
            return connection.drop_with("stdin without being attached for it");
        };
        connection.input_bytes += data.len();
        if connection.input_bytes > STDIN_WINDOW {
            return connection.drop_with("more stdin than the window allows");
        }
        if self.is_pending(session) {
            self.early(number, |early| early.input.extend_from_slice(data));
        } else if let Some(session) = self.session(session) {
            session.input.push(number, data);
            let session = session.number;
            self.write_input(session);
        } else if let Some(connection) = self.connection(number) {
            connection.acknowledge(data.len());
        }
    }

    fn close_stdin(&mut self, number: u32) {
        let Some(session) = self.attached_session(number) else { return };
        if self.is_pending(session) {
            self.early(number, |early| early.input_closed = true);
        } else if let Some(session) = self.session(session) {
            session.client_closed_input();
            let session = session.number;
            self.write_input(session);
        }
    }

    fn resize(&mut self, number: u32, rows: u16, columns: u16) {
        let Some(session) = self.attached_session(number) else { return };
        if self.is_pending(session) {
            self.early(number, |early| early.size = Some((rows, columns)));
        } else if let Some(session) = self.session(session) {
            session.resize(rows, columns);
        }
    }

    fn signal(&mut self, number: u32, session: u32, signal: i32) {
        let pending = self.launches.iter_mut().find(|pending| pending.session == session);
        let result = if !(1..=hull_sys::signals::HIGHEST).contains(&signal) {
            Err(format!("{signal} is no signal"))
        } else if let Some(pending) = pending {
            pending.signals.push(signal);
            Ok(())
        } else if let Some(session) = self.session(session) {
            hull_sys::signals::send_to_pidfd(session.pidfd.as_fd(), signal)
                .map_err(|error| format!("cannot send signal {signal}: {error}"))
        } else {
            Err("the process has ended".to_owned())
        };
        let Some(connection) = self.connection(number) else { return };
        match result {
            Ok(()) => connection.reply(&Reply::Done),
            Err(text) => refuse(connection, &text),
        }
    }

    fn take_exec(&mut self, number: u32, file: &std::path::Path, attach: Option<AttachFlags>) {
        let attached_already = attach.is_some() && self.attached_session(number).is_some();
        let problem = if self.session(0).is_none() {
            Some("the container is not running".to_owned())
        } else if attached_already {
            Some("this connection is attached to another session".to_owned())
        } else {
            self.exec(number, file, attach).err().map(|error| format!("cannot start a worker: {error}"))
        };
        if let (Some(text), Some(connection)) = (problem, self.connection(number)) {
            connection.reply(&Reply::Error { exit_code: 125, text: &text });
        }
    }

    fn wait_for(&mut self, number: u32, session: u32) {
        let running = self.session(session).is_some() || self.is_pending(session);
        let finished = self.finished.iter().find(|exited| exited.session == session).copied();
        let Some(connection) = self.connection(number) else { return };
        match finished {
            Some(exited) => connection.reply(&Reply::Exited(exited)),
            None if running => connection.waits_for.push(session),
            None => refuse(connection, "there is no such session"),
        }
    }

    fn report_status(&mut self, number: u32) {
        let first = self.sessions.iter().find(|session| session.number == 0);
        let report = StatusReport {
            pid: first.map(|session| session.pid),
            sessions: self.sessions.len() as u32,
            clients: self.connections.len() as u32,
            log_lines_dropped: first.and_then(|session| session.log.as_ref()).map_or(0, |log| log.dropped()),
        };
        if let Some(connection) = self.connection(number) {
            connection.reply(&Reply::StatusReport(report));
        }
    }

    /// One client at a time, after the end, and only while the lock is ours to give.
    fn grant_cleanup(&mut self, number: u32) {
        let begun = self.connections.iter().any(|connection| connection.cleanup == CleanupPromise::Begun);
        let ended = self.ending.is_some();
        let lock = self.lock.take();
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) else {
            return;
        };
        let granted = match &lock {
            Some(lock) if ended && !begun => connection.grant_cleanup(lock.as_fd()),
            _ => false,
        };
        if !granted {
            refuse(connection, "somebody else cleans up");
        }
        self.lock = lock;
    }

    fn take_cleanup_done(&mut self, number: u32) {
        let Some(connection) = self.connection(number) else { return };
        if connection.cleanup != CleanupPromise::Begun {
            return connection.drop_with("clean-up without a grant");
        }
        connection.cleanup = CleanupPromise::Kept;
        self.cleanup_settled = true;
    }

    fn drop_connection(&mut self, number: u32, reason: &str) {
        if let Some(connection) = self.connection(number) {
            connection.drop_with(reason);
        }
    }

    fn is_pending(&self, session: u32) -> bool {
        self.launches.iter().any(|pending| pending.session == session)
    }

    fn attached_session(&mut self, number: u32) -> Option<u32> {
        self.connection(number)?.attached.map(|attached| attached.session)
    }

    fn early(&mut self, number: u32, keep: impl FnOnce(&mut Early)) {
        if let Some(connection) = self.connection(number) {
            keep(connection.early.get_or_insert_default());
        }
    }

    /// Forgets clients that have left or were dropped.
    pub(super) fn remove_connections(&mut self) {
        let Some(at) = self.connections.iter().position(Connection::is_over) else { return };
        let connection = self.connections.remove(at);
        if let Some(Attachment { session, flags: AttachFlags { stdin: true, .. } }) = connection.attached {
            if let Some(pending) = self.launches.iter_mut().find(|pending| pending.session == session) {
                pending.input_left = true;
            } else if let Some(session) = self.session(session) {
                session.client_closed_input();
                let session = session.number;
                self.write_input(session);
            }
        }
        self.listen_again();
        self.remove_connections();
    }
}

fn refuse(connection: &mut Connection, text: &str) {
    connection.reply(&Reply::Error { exit_code: 0, text });
}
