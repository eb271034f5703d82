//! Names that end alike: classes of one model differ in prefixes (`model.layers.0` and `layers.0`).

use rustc_hash::FxHashMap;

/// Trailing components that names with different prefixes must share, as in `layers.0.mlp.up_proj.weight`.
const SHARED_COMPONENTS: usize = 3;

/// Names of matrices with their shapes, to be found by the longest ending that they share with another; finding one
/// takes time in proportion to its name.
#[derive(Debug, Default)]
pub(super) struct Endings<'a> {
    /// For each ending its number, by that of the ending that is shorter by its first component.
    nodes: FxHashMap<(usize, &'a str), usize>,
    /// How many matrices of a shape have an ending, and one of them.
    of_node: FxHashMap<(usize, [u64; 2]), (usize, usize)>,
}

/// What shapes have in common that are each other's transposed: `Conv1D` of GPT-2 is quantised transposed.
pub(super) fn untransposed([rows, cols]: [u64; 2]) -> [u64; 2] {
    [rows.min(cols), rows.max(cols)]
}

impl<'a> Endings<'a> {
    pub(super) fn add(&mut self, name: &'a str, shape: [u64; 2], index: usize) {
        let mut node = 0;
        for component in name.rsplit('.') {
            let next = self.nodes.len() + 1;
            node = *self.nodes.entry((node, component)).or_insert(next);
            self.of_node.entry((node, untransposed(shape))).or_insert((0, index)).0 += 1;
        }
    }

    /// The one of that shape whose name ends most like `name`, if no other does so as well.
    pub(super) fn find(&self, name: &str, shape: [u64; 2]) -> Option<usize> {
        let (mut node, mut best) = (0, None);
        for (shared, component) in (1..).zip(name.rsplit('.')) {
            let Some(next) = self.nodes.get(&(node, component)) else { break };
            let Some(found) = self.of_node.get(&(*next, untransposed(shape))) else { break };
            (node, best) = (*next, Some((shared, *found)));
        }
        best.and_then(|(shared, (count, index))| (count == 1 && shared >= SHARED_COMPONENTS).then_some(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ending_counts_if_it_is_the_only_one() {
        let names = [
            ("model.layers.0.mlp.up_proj.weight", [8, 4]),
            ("model.layers.1.mlp.up_proj.weight", [8, 4]),
            ("model.layers.11.mlp.up_proj.weight", [8, 4]),
            ("other.layers.1.mlp.up_proj.weight", [8, 8]),
            ("vision.blocks.0.fc.weight", [8, 4]),
            ("audio.blocks.0.fc.weight", [8, 4]),
            ("lm_head.weight", [8, 4]),
        ];
        let mut endings = Endings::default();
        for (index, (name, shape)) in names.iter().enumerate() {
            endings.add(name, *shape, index);
        }
        for (name, shape, want) in [
            ("layers.1.mlp.up_proj.weight", [8, 4], Some(1)),
            ("layers.1.mlp.up_proj.weight", [4, 8], Some(1)),
            ("transformer.model.layers.11.mlp.up_proj.weight", [8, 4], Some(2)),
            ("x.layers.1.mlp.up_proj.weight", [8, 8], Some(3)),
            ("x.layers.2.mlp.up_proj.weight", [8, 4], None),
            ("audio.blocks.0.fc.weight", [8, 4], Some(5)),
            ("blocks.0.fc.weight", [8, 4], None),
            ("x.lm_head.weight", [8, 4], None),
            ("mlp.up_proj.weight", [8, 8], Some(3)),
            ("layers.0.mlp.up_proj.weight", [9, 4], None),
        ] {
            assert_eq!(endings.find(name, shape), want, "{name} {shape:?}");
        }
    }
}
