//! The names of an image while it is being made, and the inodes that they lead to.
//!
//! A directory stays here until the end, because entries of it may still come; everything else has been written, and
//! its number is enough. An inode that loses its last name stays in the image as bytes that nothing leads to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::attributes::Attributes;
use super::format::FileKind;

/// An inode of the image in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(u32);

impl NodeId {
    /// Its number among the image's inodes, from 1.
    pub(super) fn number(self) -> u32 {
        self.0 + 1
    }
}

#[derive(Debug)]
enum Node {
    /// Index of a directory.
    Directory(u32),
    Written {
        nid: u64,
        links: u32,
        kind: FileKind,
    },
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    parent: u32,
    pub names: BTreeMap<Box<[u8]>, NodeId>,
    pub attributes: Attributes,
    /// Its inode's number, once it has a place.
    pub nid: u64,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    directories: Vec<Directory>,
}

/// The top directory.
pub(super) const ROOT: NodeId = NodeId(0);

impl Tree {
    pub fn new() -> Tree {
        let attributes = Attributes { mode: 0o755, ..Attributes::default() };
        Tree { nodes: vec![Node::Directory(0)], directories: vec![Directory { attributes, ..Directory::default() }] }
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn kind(&self, id: NodeId) -> FileKind {
        match self.node(id) {
            Node::Directory(_) => FileKind::Directory,
            Node::Written { kind, .. } => *kind,
        }
    }

    /// Number of a node's inode; of a directory only when it has its place.
    pub fn nid(&self, id: NodeId) -> u64 {
        match self.node(id) {
            Node::Directory(index) => self.directories[*index as usize].nid,
            Node::Written { nid, .. } => *nid,
        }
    }

    /// How many inodes there are, those without a name too.
    pub fn inodes(&self) -> u32 {
        self.nodes.len() as u32
    }

    pub fn add_written(&mut self, nid: u64, kind: FileKind) -> NodeId {
        self.nodes.push(Node::Written { nid, links: 0, kind });
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// A new directory; its parent is known when it gets its name.
    pub fn add_directory(&mut self, attributes: Attributes) -> NodeId {
        self.directories.push(Directory { attributes, ..Directory::default() });
        self.nodes.push(Node::Directory(self.directories.len() as u32 - 1));
        NodeId(self.nodes.len() as u32 - 1)
    }

    pub fn directory(&self, id: NodeId) -> Option<&Directory> {
        match self.node(id) {
            Node::Directory(index) => Some(&self.directories[*index as usize]),
            Node::Written { .. } => None,
        }
    }

    pub fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match self.nodes[id.0 as usize] {
            Node::Directory(index) => Some(&mut self.directories[index as usize]),
            Node::Written { .. } => None,
        }
    }

    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(directory)?.names.get(name).copied()
    }

    /// Gives a node a name; `false` when there is one of that name, or no such directory.
    pub fn link(&mut self, directory: NodeId, name: &[u8], node: NodeId) -> bool {
        let Node::Directory(parent) = self.nodes[directory.0 as usize] else { return false };
        match self.directories[parent as usize].names.entry(name.into()) {
            Entry::Occupied(_) => return false,
            Entry::Vacant(place) => place.insert(node),
        };
        match &mut self.nodes[node.0 as usize] {
            Node::Directory(index) => self.directories[*index as usize].parent = parent,
            Node::Written { links, .. } => *links += 1,
        }
        true
    }

    /// Takes a name away, with everything below it.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        let mut gone: Vec<NodeId> =
            self.directory_mut(directory).and_then(|directory| directory.names.remove(name)).into_iter().collect();
        while let Some(id) = gone.pop() {
            match &mut self.nodes[id.0 as usize] {
                Node::Directory(index) => {
                    let removed = std::mem::take(&mut self.directories[*index as usize]);
                    gone.extend(removed.names.into_values());
                }
                Node::Written { links, .. } => *links -= 1,
            }
        }
    }

    /// The directories that have a place in the tree, each after its parent, in the order of their names.
    pub fn reachable(&self) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut waiting = vec![ROOT];
        while let Some(id) = waiting.pop() {
            let Some(directory) = self.directory(id) else { continue };
            order.push(id);
            let below = directory.names.values().rev().filter(|id| matches!(self.node(**id), Node::Directory(_)));
            waiting.extend(below);
        }
        order
    }

    /// Names of a directory with the numbers they lead to, sorted, `.` and `..` among them.
    pub fn entries<'d>(&self, directory: &'d Directory) -> Vec<(&'d [u8], u64, FileKind)> {
        let parent = self.directories[directory.parent as usize].nid;
        let mut dots = [(&b"."[..], directory.nid), (&b".."[..], parent)].into_iter().peekable();
        let mut all = Vec::with_capacity(directory.names.len() + 2);
        for (name, id) in directory.names.iter().map(|(name, id)| (&**name, *id)) {
            while let Some((dot, nid)) = dots.next_if(|(dot, _)| *dot < name) {
                all.push((dot, nid, FileKind::Directory));
            }
            all.push((name, self.nid(id), self.kind(id)));
        }
        all.extend(dots.map(|(dot, nid)| (dot, nid, FileKind::Directory)));
        all
    }

    /// Link count of a directory: its name, its own `.`, and `..` of each directory in it.
    pub fn directory_links(&self, directory: &Directory) -> u32 {
        2 + directory.names.values().filter(|id| matches!(self.node(**id), Node::Directory(_))).count() as u32
    }

    /// Inodes that were written with one link and have several: their numbers and counts.
    pub fn several_links(&self) -> impl Iterator<Item = (u64, u32)> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Written { nid, links, .. } if *links > 1 => Some((*nid, *links)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_sorted_among_the_names() {
        let mut tree = Tree::new();
        for name in [&b"a"[..], b"+", b".hidden", b"..x", b".+"] {
            let node = tree.add_written(9, FileKind::Regular);
            assert!(tree.link(ROOT, name, node) && !tree.link(ROOT, name, node));
        }
        let names: Vec<_> = tree.entries(tree.directory(ROOT).unwrap()).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, [&b"+"[..], b".", b".+", b"..", b"..x", b".hidden", b"a"]);
    }

    #[test]
    fn what_is_below_a_removed_directory_loses_its_links() {
        let mut tree = Tree::new();
        let directory = tree.add_directory(Attributes::default());
        tree.link(ROOT, b"dir", directory);
        let file = tree.add_written(9, FileKind::Regular);
        for (parent, name) in [(ROOT, b"a"), (directory, b"b"), (directory, b"c")] {
            assert!(tree.link(parent, name, file));
        }
        assert_eq!(tree.several_links().collect::<Vec<_>>(), [(9, 3)]);
        tree.unlink(ROOT, b"dir");
        assert_eq!((tree.several_links().count(), tree.child(ROOT, b"dir"), tree.reachable().len()), (0, None, 1));
    }
}
