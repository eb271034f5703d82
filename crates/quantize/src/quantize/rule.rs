//! Which tensors of a folder are quantised: the ones that transformers would hand to bitsandbytes, told by their names
//! and shapes.
//!
//! transformers converts every `nn.Linear` (and `Conv1D`), except the output head, what is tied to it and a few modules
//! that a class names. A folder has no modules, but conventions that nearly all classes follow: see
//! `docs/architecture.md` for the comparison with the classes of transformers 5.23.

use std::collections::HashSet;

use qstore_container::Dtype;

use super::classes;

/// What the rule knows of a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model<'a> {
    /// The first of `architectures`, or empty.
    pub(super) class: &'a str,
    /// `model_type`, or empty.
    pub(super) model_type: &'a str,
}

/// What the rule knows of a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: Dtype,
    pub(super) shape: &'a [u64],
}

/// What becomes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Quantised, with a scale for each row.
    Rows,
    /// Quantised, with a scale for each column, and transposed: the weight of a `Conv1D`.
    Columns,
    /// Left as it is, being no weight matrix.
    NoMatrix,
    /// Left as it is, a weight matrix.
    Kept(Reason),
}

impl Choice {
    pub(super) fn is_quantised(self) -> bool {
        matches!(self, Self::Rows | Self::Columns)
    }
}

/// Why a weight matrix is not quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A table of embeddings, not a linear layer.
    Embedding,
    /// The output head, or a matrix tied to it.
    Head,
    /// Within `nn.MultiheadAttention`, which computes with the matrix itself.
    FusedAttention,
    /// An expert: transformers 5 fuses experts into one tensor, which bitsandbytes does not quantise.
    Expert,
    /// The router of a mixture of experts.
    Router,
    /// The class keeps it in FP32.
    Fp32,
    /// The matrix has no elements.
    Empty,
    /// The list of what is left alone would cover it by its name.
    SharedName,
    /// No reader looks for quantised layers there.
    OutsideBlocks,
}

impl Reason {
    /// For a warning, after "being"; `None` for what everyone expects.
    pub(super) fn unusual(self) -> Option<&'static str> {
        match self {
            Self::Embedding | Self::Head => None,
            Self::FusedAttention => Some("part of nn.MultiheadAttention, which cannot use quantized weights"),
            Self::Expert => Some("an expert, and transformers 5 loads experts in one piece"),
            Self::Router => Some("a router of experts"),
            Self::Fp32 => Some("what the model's class keeps in higher precision"),
            Self::Empty => Some("empty"),
            Self::SharedName => Some("covered by the name of another layer that is not quantized"),
            Self::OutsideBlocks => {
                Some("outside the blocks in which readers of GPTQ look for quantized layers")
            }
        }
    }
}

/// Says of each of a model's tensors what becomes of it.
pub(super) fn choose(model: Model<'_>, tensors: &[Tensor<'_>]) -> Vec<Choice> {
    let names: HashSet<&str> = tensors.iter().map(|t| t.name).collect();
    let has_experts = tensors.iter().any(|t| t.name.contains(".experts."));
    let mut choices: Vec<_> = tensors
        .iter()
        .map(|tensor| match tensor.name.strip_suffix(".weight") {
            Some(module) if tensor.shape.len() == 2 && is_float(tensor.dtype) => {
                let reason = kept_because(model, module, &names, has_experts)
                    .or_else(|| tensor.shape.contains(&0).then_some(Reason::Empty));
                match reason {
                    Some(reason) => Choice::Kept(reason),
                    None if is_conv1d(model, module) => Choice::Columns,
                    None => Choice::Rows,
                }
            }
            _ => Choice::NoMatrix,
        })
        .collect();
    if !classes::is_verified(model.class) {
        keep_what_the_list_covers(tensors, &mut choices);
    }
    choices
}

/// The entries of `llm_int8_skip_modules` that tell transformers what `choices` left alone, or `None` where it finds
/// out by itself.
pub(super) fn skip_list(model: Model<'_>, tensors: &[Tensor<'_>], choices: &[Choice]) -> Option<Vec<String>> {
    let expected = |choice: &Choice| !matches!(choice, Choice::Kept(Reason::Empty));
    (!classes::is_verified(model.class) || !choices.iter().all(expected))
        .then(|| kept_modules(tensors, choices))
}

/// The modules that `choices` left alone, by name; of experts what all names of a layer's begin with.
pub(super) fn kept_modules(tensors: &[Tensor<'_>], choices: &[Choice]) -> Vec<String> {
    let kept = tensors.iter().zip(choices).filter_map(|(tensor, choice)| match choice {
        // One entry for all experts of a layer: there may be tens of thousands.
        Choice::Kept(Reason::Expert) => {
            tensor.name.split_once(".experts.").map(|(layer, _)| format!("{layer}.experts"))
        }
        Choice::Kept(_) => tensor.name.strip_suffix(".weight").map(str::to_owned),
        _ => None,
    });
    let mut keys: Vec<String> = kept.collect();
    keys.sort();
    keys.dedup();
    keys
}

/// An entry covers all modules that begin or end with it, so what is kept may drag along what is not: `decoder` covers
/// `decoder.layers.0.fc1`.
fn keep_what_the_list_covers(tensors: &[Tensor<'_>], choices: &mut [Choice]) {
    loop {
        let keys = kept_modules(tensors, choices);
        // Entries are looked up by every prefix and suffix of a name; comparing all with all would take minutes for
        // many experts.
        let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
        let covered = |module: &str| {
            let prefixes = module.match_indices('.').map(|(dot, _)| &module[..dot]);
            let mut all = prefixes.chain(module.char_indices().map(|(start, _)| &module[start..]));
            all.any(|part| keys.contains(part))
        };
        let mut changed = false;
        for (tensor, choice) in tensors.iter().zip(choices.iter_mut()) {
            let module = tensor.name.strip_suffix(".weight");
            if choice.is_quantised() && module.is_some_and(covered) {
                *choice = Choice::Kept(Reason::SharedName);
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32 | Dtype::F64)
}

/// Why transformers would not quantise the matrix of `module`, if it would not.
fn kept_because(model: Model<'_>, module: &str, names: &HashSet<&str>, has_experts: bool) -> Option<Reason> {
    let (parent, leaf) = module.rsplit_once('.').unwrap_or(("", module));
    let within = |name: &str| parent.split('.').any(|part| part == name);
    if classes::is_too_fine_for_int8(model.class, module) {
        return Some(Reason::Fp32);
    }
    // What is numbered is one of a list that has the name.
    let list = parent.rsplit('.').next().filter(|_| leaf.bytes().all(|b| b.is_ascii_digit()));
    if is_embedding(list.unwrap_or(leaf)) {
        return Some(Reason::Embedding);
    }
    if is_head(module, leaf, names) || list == Some("lm_heads") {
        return Some(Reason::Head);
    }
    if leaf == "out_proj" && names.contains(format!("{parent}.in_proj_weight").as_str()) {
        return Some(Reason::FusedAttention);
    }
    if within("experts") {
        return Some(Reason::Expert);
    }
    // AFMoE's and JetMoE's routers are ordinary linear layers; those of Granite are not, and lie beside experts of
    // another name.
    let routes = has_experts && matches!(leaf, "gate" | "router") && model.model_type != "afmoe"
        || module.ends_with(".router.layer") && model.model_type.starts_with("granitemoe");
    routes.then_some(Reason::Router)
}

/// Whether modules of this name are tables of embeddings.
fn is_embedding(leaf: &str) -> bool {
    // A 2-D weight of a patch embedding is a linear layer; a convolution's has more dimensions.
    if leaf == "patch_embedding" {
        return false;
    }
    let without_digits = leaf.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = without_digits.strip_suffix('_').filter(|_| without_digits.len() < leaf.len());
    let stem = numbered.unwrap_or(leaf).to_ascii_lowercase();
    ["embed", "embeds", "embedding", "embeddings", "embedder", "emb", "table", "codebook"]
        .iter()
        .any(|end| stem.ends_with(end))
        || ["embed_", "emb_"].iter().any(|start| leaf.starts_with(start))
        || ["wte", "wpe", "shared", "relative_attention_bias"].contains(&leaf)
        || leaf.ends_with("_embeds_layer")
        || leaf.starts_with("rel_pos_") && leaf.ends_with("bias")
}

/// Whether a module of this name makes the model's output.
fn is_head(module: &str, leaf: &str, names: &HashSet<&str>) -> bool {
    let without_bias = || !names.contains(format!("{module}.bias").as_str());
    match leaf {
        "lm_head" | "embed_out" | "output_projection" | "unembed" | "decoder" => true,
        "head" => module == leaf,
        // transformers spares the last parameter of a model, which these are if they have no bias.
        "score" | "text_projection" => module == leaf && without_bias(),
        _ => false,
    }
}

fn is_conv1d(model: Model<'_>, module: &str) -> bool {
    let leaf = module.rsplit('.').next().unwrap_or(module);
    classes::has_conv1d_layers(model.model_type) && ["c_attn", "c_proj", "c_fc", "q_attn"].contains(&leaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors<'a>(names: &[&'a str]) -> Vec<Tensor<'a>> {
        names.iter().map(|name| Tensor { name, dtype: Dtype::BF16, shape: &[2, 3] }).collect()
    }

    #[test]
    fn chooses_what_transformers_chooses() {
        let families = include_str!("families.txt").lines().filter(|line| !line.starts_with('#'));
        let mut families = families.peekable();
        let mut count = 0;
        while let Some((class, model_type)) = families.next().and_then(|line| line.split_once(' ')) {
            assert!(classes::is_verified(class), "{class}");
            let mut lines = Vec::new();
            while let Some(line) = families.next_if(|line| line.as_bytes()[1] == b' ') {
                lines.push(line.split_at(2));
            }
            let names: Vec<_> = lines.iter().map(|(_, name)| *name).collect();
            let choices = choose(Model { class, model_type }, &tensors(&names));
            for ((mark, name), choice) in lines.iter().zip(choices) {
                let chosen = matches!(choice, Choice::Rows | Choice::Columns);
                assert!(*mark == ". " || chosen == (*mark == "+ "), "{class} {name}: {choice:?}");
                assert_eq!(choice == Choice::Columns, chosen && model_type == "gpt2", "{class} {name}");
            }
            count += 1;
        }
        assert_eq!(count, 29);
    }

    #[test]
    fn only_matrices_of_floats_are_chosen() {
        let model = Model { class: "LlamaForCausalLM", model_type: "llama" };
        for (name, dtype, shape, want) in [
            ("a.q_proj.weight", Dtype::F16, &[2u64, 2][..], Choice::Rows),
            ("a.q_proj.weight", Dtype::F64, &[2, 2], Choice::Rows),
            ("a.q_proj.weight", Dtype::I8, &[2, 2], Choice::NoMatrix),
            ("a.q_proj.weight", Dtype::F16, &[2], Choice::NoMatrix),
            ("a.q_proj.weight", Dtype::F16, &[2, 2, 1], Choice::NoMatrix),
            ("a.q_proj.weight", Dtype::F16, &[0, 2], Choice::Kept(Reason::Empty)),
            ("a.q_proj.bias", Dtype::F16, &[2, 2], Choice::NoMatrix),
            ("weight", Dtype::F16, &[2, 2], Choice::NoMatrix),
        ] {
            assert_eq!(choose(model, &[Tensor { name, dtype, shape }]), [want], "{name} {dtype:?} {shape:?}");
        }
    }

    #[test]
    fn unknown_classes_get_a_list() {
        let tensors = tensors(&[
            "embed_tokens.weight",
            "layers.0.mlp.experts.0.up_proj.weight",
            "layers.0.mlp.experts.1.up_proj.weight",
            "layers.0.q_proj.weight",
            "lm_head.weight",
        ]);
        let (known, unknown) = (
            Model { class: "MixtralForCausalLM", model_type: "mixtral" },
            Model { class: "MyModel", model_type: "" },
        );
        let choices = choose(known, &tensors);
        assert_eq!(skip_list(known, &tensors, &choices), None);
        assert_eq!(choices, choose(unknown, &tensors));
        let list = skip_list(unknown, &tensors, &choices).unwrap();
        assert_eq!(list, ["embed_tokens", "layers.0.mlp.experts", "lm_head"]);
    }

    #[test]
    fn the_list_covers_nothing_else() {
        // `decoder` alone is a head, and covers all that begins with it; `x.fc` is then an entry, which covers what
        // ends with it.
        let names = ["decoder.weight", "decoder.x.fc.weight", "y.decoder.x.fc.weight", "z.fc.weight"];
        let (tensors, model) = (tensors(&names), Model { class: "MyModel", model_type: "" });
        let choices = choose(model, &tensors);
        let shared = Choice::Kept(Reason::SharedName);
        assert_eq!(choices, [Choice::Kept(Reason::Head), shared, shared, Choice::Rows]);
        let list = skip_list(model, &tensors, &choices).unwrap();
        for (tensor, choice) in tensors.iter().zip(choices) {
            let module = tensor.name.strip_suffix(".weight").unwrap();
            let covered = list.iter().any(|key| classes::skip_key_matches(key, module));
            assert_eq!(covered, choice != Choice::Rows, "{module}");
        }
    }
}
