//! `hull images --tree`: layers as a tree, each once, however many images have it.
//!
//! ```text
//! LAYER          DISK USAGE   CONTENT SIZE   IMAGES
//! 3f4c1a7be2d0   1.2MB        600kB          busybox:latest
//! ├─ 90ab...     64kB         1kB
//! │  81cd...     64kB         1kB            five-layers:latest
//! └─ 77ef...     5B           120B           <none> (id 0123456789ab)
//! ```
//!
//! A layer stands below the one that it lies on; where only one lies on it, both have the same indentation, so that an
//! image of sixty layers is as wide as one of two. A layer's name is the beginning of its chain id. At the layer where
//! an image ends its names are shown. An image without layers has a line of its own.

use std::collections::BTreeMap;

use hull_engine::Engine;
use hull_image::Image;
use hull_oci::Digest;

use crate::error::Failure;
use crate::output::table::columns;
use crate::output::units::human_size;

/// A layer, what lies on it, and which images end with it.
#[derive(Debug, Default)]
struct Node {
    disk_bytes: u64,
    content_bytes: u64,
    images: Vec<String>,
    above: BTreeMap<Digest, Node>,
}

/// The tree of these images.
///
/// # Errors
/// When the store cannot be read.
pub fn tree(engine: &Engine, images: &[Image], is_short: bool) -> Result<String, Failure> {
    let store = engine.image_store();
    let mut root = Node::default();
    for image in images {
        let sizes = store.layer_sizes(&image.id).map_err(hull_engine::EngineError::from)?;
        let mut node = &mut root;
        for (layer, disk_bytes) in image.layers.iter().zip(sizes) {
            node = node.above.entry(layer.chain_id.clone()).or_default();
            (node.disk_bytes, node.content_bytes) = (disk_bytes, layer.size_bytes);
        }
        node.images.extend(shown_names(image));
    }
    let mut lines = vec!["LAYER\tDISK USAGE\tCONTENT SIZE\tIMAGES".to_owned()];
    lines.extend(root.images.iter().map(|image| format!("<none>\t0B\t0B\t{image}")));
    for (chain_id, node) in &root.above {
        run(node, chain_id, ["", ""], is_short, &mut lines);
    }
    Ok(columns(&lines))
}

fn shown_names(image: &Image) -> Vec<String> {
    let names = image.tags();
    match names.is_empty() {
        true => vec![format!("<none> (id {})", image.id.short())],
        false => names,
    }
}

/// Lines of a layer and of those that lie on it as long as there is one only; then a branch for each of several.
/// `indents` are those of the first line and of the others.
fn run(node: &Node, chain_id: &Digest, indents: [&str; 2], is_short: bool, lines: &mut Vec<String>) {
    let (mut node, mut chain_id, mut indent) = (node, chain_id, indents[0]);
    loop {
        let name = if is_short { chain_id.short() } else { chain_id.as_str() };
        let (disk, content) = (human_size(node.disk_bytes, 3), human_size(node.content_bytes, 3));
        lines.push(format!("{indent}{name}\t{disk}\t{content}\t{}", node.images.join(", ")));
        indent = indents[1];
        let mut above = node.above.iter();
        match (above.next(), above.next()) {
            (None, _) => return,
            (Some((only_id, only)), None) => (node, chain_id) = (only, only_id),
            (Some(_), Some(_)) => break,
        }
    }
    let last = node.above.len() - 1;
    for (index, (chain_id, branch)) in node.above.iter().enumerate() {
        let [first, others] = if index == last { ["└─ ", "   "] } else { ["├─ ", "│  "] };
        let (first, others) = (format!("{indent}{first}"), format!("{indent}{others}"));
        run(branch, chain_id, [&first, &others], is_short, lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Digest {
        Digest::sha256_of(text.as_bytes())
    }

    fn node(image: &str, above: Vec<(&str, Node)>) -> Node {
        let images = if image.is_empty() { Vec::new() } else { vec![image.to_owned()] };
        let above = above.into_iter().map(|(name, node)| (id(name), node)).collect();
        Node { disk_bytes: 1000, content_bytes: 1, images, above }
    }

    #[test]
    fn shared_layers_are_shown_once_and_runs_are_not_indented() {
        let fork = vec![("c", node("one", vec![])), ("d", node("", vec![("e", node("two", vec![]))]))];
        let tree = node("", vec![("b", node("base", fork))]);
        let mut lines = Vec::new();
        run(&tree, &id("a"), ["", ""], true, &mut lines);
        assert_eq!(lines.len(), 5, "{lines:?}");
        let indents: Vec<&str> =
            lines.iter().map(|line| line.split(|c: char| c.is_ascii_hexdigit()).next().unwrap()).collect();
        let mut sorted = [("c", 1), ("d", 2)].map(|(name, count)| (id(name), count));
        sorted.sort();
        let expected = match sorted[0].1 {
            1 => ["", "", "├─ ", "└─ ", "   "],
            _ => ["", "", "├─ ", "│  ", "└─ "],
        };
        assert_eq!(indents, expected);
        assert!(lines[1].ends_with("\tbase"));
    }
}
