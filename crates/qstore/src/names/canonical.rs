//! One name for each matrix, whoever published it.

use std::borrow::Cow;

/// Parts of names, and what they are called here: as most of transformers' classes call them. `#` is any number.
const RENAMED: [(&str, &str); 14] = [
    ("block_sparse_moe.experts.#.w1", "mlp.experts.#.gate_proj"),
    ("block_sparse_moe.experts.#.w2", "mlp.experts.#.down_proj"),
    ("block_sparse_moe.experts.#.w3", "mlp.experts.#.up_proj"),
    ("mlp.experts.#.w1", "mlp.experts.#.gate_proj"),
    ("mlp.experts.#.w2", "mlp.experts.#.down_proj"),
    ("mlp.experts.#.w3", "mlp.experts.#.up_proj"),
    ("block_sparse_moe.experts", "mlp.experts"),
    ("feed_forward.experts", "mlp.experts"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("tok_embeddings", "embed_tokens"),
];

/// The name of a matrix in the words that are used here.
pub(crate) fn canonical(name: &str) -> Cow<'_, str> {
    let components: Vec<&str> = name.split('.').collect();
    let renamed = RENAMED.iter().find_map(|(from, to)| {
        let from: Vec<&str> = from.split('.').collect();
        let at = components.windows(from.len()).position(|window| {
            window
                .iter()
                .zip(&from)
                .all(|(component, pattern)| component == pattern || *pattern == "#" && is_number(component))
        })?;
        let (before, rest) = components.split_at(at);
        let (found, after) = rest.split_at(from.len());
        let mut numbers =
            found.iter().zip(&from).filter(|(_, pattern)| **pattern == "#").map(|(number, _)| *number);
        let to = to
            .split('.')
            .map(|component| if component == "#" { numbers.next().unwrap_or("#") } else { component });
        Some(before.iter().copied().chain(to).chain(after.iter().copied()).collect::<Vec<_>>().join("."))
    });
    renamed.map_or(Cow::Borrowed(name), Cow::Owned)
}

pub(super) fn is_number(component: &str) -> bool {
    !component.is_empty() && component.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_matrix() {
        for (name, want) in [
            (
                "model.layers.3.block_sparse_moe.experts.12.w1.weight",
                "model.layers.3.mlp.experts.12.gate_proj.weight",
            ),
            ("layers.3.feed_forward.experts.0.down_proj.weight", "layers.3.mlp.experts.0.down_proj.weight"),
            ("layers.3.feed_forward.w2.weight", "layers.3.mlp.down_proj.weight"),
            ("model.layers.3.mlp.experts.1.w3.weight", "model.layers.3.mlp.experts.1.up_proj.weight"),
            ("model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight"),
            ("block_sparse_moe.experts.x.w1", "mlp.experts.x.w1"),
            ("", ""),
        ] {
            assert_eq!(canonical(name), want);
        }
    }
}
