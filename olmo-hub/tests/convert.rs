//! Checkpoints that ai2-olmo wrote: opened as they are, converted, and converted back.
//!
//! `scripts/golden/original.py` made them.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod fixtures;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use olmo_hub::{
    Conversion, Dtype, Error, Form, Layout, ModelFolder, TensorFile, compare, convert, verify,
};

use fixtures::logits_apart;

const FORMS: [Form; 5] =
    [Form::HuggingFace, Form::Original, Form::OriginalSafetensors, Form::HfOlmo, Form::Core];

/// The golden folders, none where the checkout comes without them.
fn originals() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/original");
    let Ok(entries) = fs::read_dir(&golden) else {
        println!("skipped: {} is not there", golden.display());
        return Vec::new();
    };
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 10, "{folders:?}");
    folders
}

fn digest(dir: &Path) -> String {
    let found = verify(dir, |_| ()).unwrap();
    assert_eq!(found.problems, Vec::<String>::new(), "{}", dir.display());
    found.digest.unwrap()
}

fn converted(folder: &ModelFolder, conversion: &Conversion) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    convert(folder, conversion, &out, |_| ControlFlow::Continue(())).unwrap();
    (scratch, out)
}

#[test]
fn every_form_gives_the_logits_of_ai2_olmo_and_of_transformers() {
    for dir in originals() {
        let folder = ModelFolder::open(&dir).unwrap();
        assert_eq!(folder.layout(), Layout::Original);
        let expected = ["logits", "logits_transformers"];
        let has_family = folder.config().family.is_some();
        for name in &expected[..if has_family { 2 } else { 1 }] {
            let apart = logits_apart(&dir, name);
            assert!(apart < 2e-6, "{}: {name}: {apart}", dir.display());
        }
    }
}

#[test]
fn there_and_back_is_the_identity_in_every_form() {
    for dir in originals() {
        let folder = ModelFolder::open(&dir).unwrap();
        let expected = digest(&dir);
        for form in FORMS {
            if form == Form::HuggingFace && folder.config().family.is_none() {
                let scratch = tempfile::tempdir().unwrap();
                let out = scratch.path().join("out");
                let error =
                    convert(&folder, &Conversion::to(form), &out, |_| ControlFlow::Continue(()))
                        .unwrap_err();
                let message = error.to_string();
                assert!(message.contains("model_type olmo2 does not fit"), "{message}");
                assert!(message.contains("norm_placement is Before, expected After"), "{message}");
                assert!(!out.exists());
                continue;
            }
            let (_scratch, there) = converted(&folder, &Conversion::to(form));
            let there = ModelFolder::open(there).unwrap();
            assert_eq!(there.layout(), form.layout());
            assert_eq!(digest(there.path()), expected, "{} to {form:?}", dir.display());
            let back_form = if dir.ends_with("-safetensors") {
                Form::OriginalSafetensors
            } else {
                Form::Original
            };
            let (_scratch, back) = converted(&there, &Conversion::to(back_form));
            let back = ModelFolder::open(back).unwrap();
            // The digest is of values as f32; the bits themselves are compared here.
            let comparison = compare(&folder, &back, |_| ()).unwrap();
            assert_eq!(comparison.n_different(), 0);
            assert_eq!(folder.special(), back.special());
            assert_eq!(folder.model_config(), back.model_config());
        }
    }
}

/// Instruct models end their answers by more than one token.
#[test]
fn every_end_of_text_is_kept_or_told_to_be_left_out() {
    let Some(dir) = originals().into_iter().find(|dir| dir.ends_with("olmo2-gqa-pt")) else {
        return;
    };
    let one = ModelFolder::open(&dir).unwrap();
    assert!(FORMS.iter().all(|form| form.leaves_out(one.special()).is_empty()));
    let (_scratch, several) = converted(&one, &Conversion::to(Form::HuggingFace));
    let generation = r#"{"bos_token_id": 4, "eos_token_id": [2, 5, 7], "pad_token_id": 1}"#;
    fs::write(several.join("generation_config.json"), generation).unwrap();
    let several = ModelFolder::open(several).unwrap();
    let special = several.special();
    assert_eq!(special.eos_token_id, [2, 5, 7]);
    for form in FORMS {
        let (_scratch, out) = converted(&several, &Conversion::to(form));
        let found = ModelFolder::open(out).unwrap().special().clone();
        let left_out = form.leaves_out(special);
        if matches!(form, Form::Original | Form::OriginalSafetensors) {
            assert_eq!((found.bos_token_id, found.eos_token_id), (None, vec![2]));
            let eos = "config.yaml has one eos_token_id: 2 is kept, 5, 7 not";
            assert_eq!(left_out, [eos, "config.yaml has no bos_token_id: 4 is not kept"]);
        } else {
            assert_eq!(&found, special, "{form:?}");
            assert_eq!(left_out, Vec::<String>::new());
        }
    }
}

#[test]
fn the_safetensors_of_ai2_olmo_come_back_to_the_byte() {
    for dir in originals().iter().filter(|dir| dir.to_str().unwrap().ends_with("-safetensors")) {
        let folder = ModelFolder::open(dir).unwrap();
        let (_scratch, core) = converted(&folder, &Conversion::to(Form::Core));
        let core = ModelFolder::open(core).unwrap();
        let (_scratch, back) = converted(&core, &Conversion::to(Form::OriginalSafetensors));
        let theirs = TensorFile::open(&dir.join("model.safetensors")).unwrap();
        let ours = TensorFile::open(&back.join("model.safetensors")).unwrap();
        let mut names: Vec<_> = theirs.names().collect();
        let mut found: Vec<_> = ours.names().collect();
        names.sort_unstable();
        found.sort_unstable();
        assert_eq!(names, found);
        for name in names {
            assert_eq!(theirs.shape(name), ours.shape(name));
            let bits = |file: &TensorFile| -> Vec<u32> {
                file.get_f32(name).unwrap().into_iter().map(f32::to_bits).collect()
            };
            assert_eq!(bits(&theirs), bits(&ours));
        }
    }
}

#[test]
fn shards_and_narrower_dtypes_are_the_model_that_was_cut() {
    let Some(dir) = originals().into_iter().find(|dir| dir.ends_with("olmo2-gqa-pt")) else {
        return;
    };
    let folder = ModelFolder::open(&dir).unwrap();
    let small = Conversion { max_shard_bytes: 9000, ..Conversion::to(Form::HuggingFace) };
    let (_scratch, sharded) = converted(&folder, &small);
    assert!(sharded.join("model.safetensors.index.json").exists());
    assert_eq!(digest(&sharded), digest(&dir));
    let narrow = Conversion { dtype: Some(Dtype::Bf16), ..Conversion::to(Form::HuggingFace) };
    let (_scratch, bf16) = converted(&folder, &narrow);
    let bf16 = ModelFolder::open(bf16).unwrap();
    assert_eq!(bf16.stored_dtype(), Dtype::Bf16);
    let comparison = compare(&folder, &bf16, |_| ()).unwrap();
    // Half a unit in the last of eight bits.
    for tensor in &comparison.tensors {
        assert!(tensor.max_error > 0.0 && tensor.max_error <= tensor.largest / 256.0, "{tensor:?}");
        assert!(tensor.mean_error < tensor.max_error);
    }
    // Wider again, and to the other form: nothing more is lost.
    let wide = Conversion { dtype: Some(Dtype::F32), ..Conversion::to(Form::Original) };
    let (_scratch, back) = converted(&bf16, &wide);
    assert_eq!(digest(&back), digest(bf16.path()));
    assert_ne!(digest(&back), digest(&dir));
}

#[test]
fn a_folder_with_content_is_not_written_over() {
    let Some(dir) = originals().into_iter().next() else { return };
    let folder = ModelFolder::open(&dir).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("precious"), "x").unwrap();
    let conversion = Conversion::to(Form::HuggingFace);
    let error =
        convert(&folder, &conversion, scratch.path(), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    assert!(scratch.path().join("precious").exists());
}

#[test]
fn what_is_stopped_on_the_way_leaves_nothing_behind() {
    let Some(dir) = originals().into_iter().next() else { return };
    let folder = ModelFolder::open(&dir).unwrap();
    for form in [Form::HuggingFace, Form::Original, Form::OriginalSafetensors] {
        let scratch = tempfile::tempdir().unwrap();
        let mut n_writes = 0;
        let stop_at_the_third = |_| {
            n_writes += 1;
            if n_writes < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let out = scratch.path().join("out");
        let error = convert(&folder, &Conversion::to(form), out, stop_at_the_third).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!((n_writes, fs::read_dir(scratch.path()).unwrap().count()), (3, 0));
    }
}

#[test]
fn different_models_are_told_apart() {
    let originals = originals();
    let find = |name: &str| originals.iter().find(|dir| dir.ends_with(name)).map(ModelFolder::open);
    let (Some(first), Some(second)) = (find("olmo-tied-pt"), find("olmo2-gqa-pt")) else { return };
    let error = compare(&first.unwrap(), &second.unwrap(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("holds another model") && error.contains("w_k"), "{error}");
}

#[test]
fn the_known_mistake_of_early_configurations_is_mended_and_told() {
    let Some(dir) = originals().into_iter().find(|dir| dir.ends_with("olmo-tied-pt")) else {
        return;
    };
    let yaml = fs::read_to_string(dir.join("config.yaml")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let early = yaml
        .replace("vocab_size: 60", "vocab_size: 50280")
        .replace("embedding_size: 64", "embedding_size: 50304");
    assert!(early.contains("eos_token_id: 0"));
    fs::write(scratch.path().join("config.yaml"), early).unwrap();
    let config = ModelFolder::read_config(scratch.path()).unwrap();
    assert_eq!(config.special.eos_token_id, [50_279]);
    let found = verify(scratch.path(), |_| ()).unwrap();
    assert!(found.digest.is_none());
    assert!(found.problems.iter().any(|problem| problem.contains("50279")), "{found:?}");
    assert!(found.problems.iter().any(|problem| problem.contains("no weights")), "{found:?}");
}
