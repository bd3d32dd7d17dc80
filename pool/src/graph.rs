//! The graph of references between objects, as DOT and as SVG.

use crate::Medium;
use crate::core::Pool;
use crate::error::Result;
use crate::references::Target;
use std::collections::HashMap;
use std::fmt::Write;
use twz_abi::ObjectId;

/// Objects and the references between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Each object, by ID, with a name if it has one.
    pub nodes: Vec<(ObjectId, Option<String>)>,
    /// (object, object, index in the first one's table), by numbers in `nodes`.
    pub edges: Vec<(usize, usize, u32)>,
    /// (object, index in its table, target as text) of references that lead to nothing in this pool.
    pub dangling: Vec<(usize, u32, String)>,
}

impl<M: Medium> Pool<M> {
    /// The references of all objects. Names are followed as they are meant now.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn graph(&self) -> Result<Graph> {
        let mut ids = self.object_ids();
        ids.sort_unstable();
        let numbers: HashMap<ObjectId, usize> =
            ids.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let mut graph = Graph::default();
        for (number, &id) in ids.iter().enumerate() {
            graph.nodes.push((id, self.names_of(id).into_iter().next()));
            // One that goes away meanwhile has no references.
            let Ok(object) = self.open_object(id) else { continue };
            for reference in object.references()? {
                let (target, text) = match reference.target {
                    Target::Id(id) => (Some(id), id.to_string()),
                    Target::Name(Some(name)) => (self.name_get(&name), format!("{name:?}")),
                    Target::Name(None) => (None, "unreadable name".to_owned()),
                };
                match target.and_then(|id| numbers.get(&id)) {
                    Some(&other) => graph.edges.push((number, other, reference.index)),
                    None => graph.dangling.push((number, reference.index, text)),
                }
            }
        }
        Ok(graph)
    }
}

/// Space between columns and rows, and the size of a box, in SVG units.
const COLUMN: usize = 260;
const ROW: usize = 60;
const BOX: (usize, usize) = (180, 36);

impl Graph {
    fn label(&self, number: usize) -> String {
        let (id, name) = &self.nodes[number];
        let short: String = id.to_string().chars().take(16).collect();
        name.as_ref().map_or_else(|| short.clone(), |name| format!("{name} ({short}…)"))
    }

    /// The graph in the language of Graphviz.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = "digraph pool {\n  node [shape=box, fontname=monospace];\n".to_owned();
        for number in 0..self.nodes.len() {
            let label = self.label(number).replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(text, "  n{number} [label=\"{label}\"];");
        }
        for (from, to, index) in &self.edges {
            let _ = writeln!(text, "  n{from} -> n{to} [label=\"{index}\"];");
        }
        for (number, (from, index, target)) in self.dangling.iter().enumerate() {
            let label = target.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(text, "  d{number} [label=\"{label}\", style=dashed];");
            let _ = writeln!(text, "  n{from} -> d{number} [label=\"{index}\", style=dashed];");
        }
        text.push_str("}\n");
        text
    }

    /// (column, row) of each object: the column is the distance from an object that nothing refers to.
    fn places(&self) -> Vec<(usize, usize)> {
        let mut column = vec![usize::MAX; self.nodes.len()];
        let mut waiting: Vec<usize> =
            (0..self.nodes.len()).filter(|number| self.edges.iter().all(|(_, to, _)| to != number)).collect();
        let mut distance = 0;
        let mut next_start = 0;
        loop {
            while !waiting.is_empty() {
                waiting.iter().for_each(|&number| column[number] = column[number].min(distance));
                let mut reached: Vec<usize> = self
                    .edges
                    .iter()
                    .filter(|(from, to, _)| column[*from] == distance && column[*to] == usize::MAX)
                    .map(|(_, to, _)| *to)
                    .collect();
                reached.sort_unstable();
                reached.dedup();
                waiting = reached;
                distance += 1;
            }
            // What is left is in rings: begin each anywhere.
            match (next_start..column.len()).find(|&number| column[number] == usize::MAX) {
                Some(number) => {
                    (waiting, distance, next_start) = (vec![number], 0, number + 1);
                }
                None => break,
            }
        }
        let mut rows: HashMap<usize, usize> = HashMap::new();
        let place = |column: usize| {
            let row = rows.entry(column).or_default();
            *row += 1;
            (column, *row - 1)
        };
        column.into_iter().map(place).collect()
    }

    /// The graph as a picture.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let places = self.places();
        let corner = |number: usize| (20 + places[number].0 * COLUMN, 20 + places[number].1 * ROW);
        let columns = places.iter().map(|place| place.0 + 1).max().unwrap_or(1);
        let rows = places.iter().map(|place| place.1 + 1).max().unwrap_or(1);
        let (width, height) = (20 + columns * COLUMN, 20 + rows * ROW);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"monospace\" \
             font-size=\"11\">\n<defs><marker id=\"a\" markerWidth=\"8\" markerHeight=\"8\" refX=\"8\" refY=\"4\" \
             orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\"/></marker></defs>\n"
        );
        for &(from, to, index) in &self.edges {
            let ((x1, y1), (x2, y2)) = (corner(from), corner(to));
            let (x1, y1, y2) = (x1 + BOX.0, y1 + BOX.1 / 2, y2 + BOX.1 / 2);
            let bend = COLUMN / 3;
            let _ = writeln!(
                text,
                "<path d=\"M{x1},{y1} C{},{y1} {},{y2} {x2},{y2}\" fill=\"none\" stroke=\"black\" \
                 marker-end=\"url(#a)\"><title>entry {index}</title></path>",
                x1 + bend,
                x2.saturating_sub(bend),
            );
        }
        for (number, (id, _)) in self.nodes.iter().enumerate() {
            let (x, y) = corner(number);
            let label: String = escape(&self.label(number).chars().take(26).collect::<String>());
            let lost: Vec<String> = self
                .dangling
                .iter()
                .filter(|(from, ..)| *from == number)
                .map(|(_, _, to)| escape(to))
                .collect();
            let stroke = if lost.is_empty() { "black" } else { "red" };
            let lost =
                if lost.is_empty() { String::new() } else { format!(", leads nowhere: {}", lost.join(", ")) };
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"white\" stroke=\"{stroke}\"><title>{id}{lost}\
                 </title></rect>\n<text x=\"{}\" y=\"{}\">{label}</text>",
                BOX.0,
                BOX.1,
                x + 8,
                y + BOX.1 / 2 + 4,
            );
        }
        text.push_str("</svg>\n");
        text
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
