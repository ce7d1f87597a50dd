//! Files and answers of every format, damaged at random: each is read or refused, and nothing panics.
//!
//! The corpus is what the reference packages wrote, in `tests/golden`, and `tests/corpus`.
//! `OLMO_FUZZ_SECONDS` says how long each target is tried; CI gives each a minute. A failure names the seed
//! that makes it again: `OLMO_FUZZ_SEED`.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use olmo_data::{SpecialTokens, Tokenizer};
use olmo_hub::hub::{self, HubError, Pull, Repo, Settings};
use olmo_hub::{
    Error, HfConfig, ModelFolder, SavedOptimizer, SavedProgress, Special, TensorFile, verify,
};
use olmo_tests::fuzz::fuzz;
use olmo_tests::golden;
use olmo_tests::stand_in::StandIn;

/// A folder whose other files are sound, and whose file `name` is damaged.
fn in_folder(folder: &str, name: &str) -> (tempfile::TempDir, impl Fn(&[u8]) + use<>) {
    let scratch = tempfile::tempdir().expect("a folder");
    copy(&golden(folder), scratch.path());
    let dir = scratch.path().to_owned();
    let file = dir.join(name);
    let read = move |bytes: &[u8]| {
        fs::write(&file, bytes).expect("writes");
        // What can still be opened is read to its end.
        let opened = ModelFolder::open(&dir).is_ok();
        let verified = verify(&dir, |_| ());
        assert!(!opened || verified.expect("a configuration").digest.is_some());
    };
    (scratch, read)
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("golden folders").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("creates");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[test]
fn torch_files() {
    let (_scratch, read) = in_folder("original/olmo2-gqa-pt", "model.pt");
    let corpus =
        ["golden/original/olmo2-gqa-pt/model.pt", "golden/original/olmo2-groups-pt/model.pt"];
    fuzz("torch files", &corpus, read);
}

#[test]
fn states_of_the_trainers() {
    let scratch = tempfile::tempdir().expect("a folder");
    copy(&golden("trainer_resume/adamw"), scratch.path());
    let dir = scratch.path().to_owned();
    let folder = ModelFolder::open(&dir).expect("sound");
    let parameters = folder.model_config().parameters();
    let read_optimizer = |bytes: &[u8]| {
        fs::write(dir.join("optim.pt"), bytes).expect("writes");
        let Ok(state) = SavedOptimizer::open(&folder) else { return };
        let names = state.names();
        for parameter in &parameters {
            let found = names.iter().filter_map(|name| state.values(parameter, name).ok());
            found.for_each(|values| assert_eq!(values.len(), parameter.n_elements()));
            let _ = state.value(parameter, "step");
        }
    };
    fuzz("optimizers", &["golden/trainer_resume/adamw/optim.pt"], read_optimizer);
    let sharded = tempfile::tempdir().expect("a folder");
    copy(&golden("sharded_optimizer"), sharded.path());
    let folder = ModelFolder::open(sharded.path()).expect("sound");
    let parameters = folder.model_config().parameters();
    let read_pieces = |bytes: &[u8]| {
        fs::write(sharded.path().join("model_and_optim/.metadata"), bytes).expect("writes");
        let Ok(state) = SavedOptimizer::open(&folder) else { return };
        for parameter in &parameters {
            let _ = (state.values(parameter, "exp_avg"), state.value(parameter, "step"));
        }
    };
    let list = "golden/sharded_optimizer/model_and_optim/.metadata";
    fuzz("sharded optimizers", &[list], read_pieces);
    for (form, file) in [
        ("torch_legacy", "rank1.pt"),
        ("local", "optim/rank1.pt"),
        ("olmo_core", "optim/metadata.json"),
    ] {
        let name = format!("trainer_resume/sharded-{form}");
        let copied = tempfile::tempdir().expect("a folder");
        copy(&golden(&name), copied.path());
        let folder = ModelFolder::open(copied.path()).expect("sound");
        let parameters = folder.model_config().parameters();
        let read = |bytes: &[u8]| {
            fs::write(copied.path().join(file), bytes).expect("writes");
            let Ok(state) = SavedOptimizer::open(&folder) else { return };
            for parameter in &parameters {
                let _ = (state.values(parameter, "exp_avg"), state.value(parameter, "step"));
            }
        };
        fuzz(&format!("optimizers of {form}"), &[&format!("golden/{name}/{file}")], read);
    }
    let read_progress = |bytes: &[u8]| {
        fs::write(dir.join("train.pt"), bytes).expect("writes");
        let _ = SavedProgress::read(&dir);
    };
    let corpus =
        ["golden/trainer_resume/adamw/train.pt", "golden/sharded_optimizer/train/rank0.pt"];
    fuzz("progress", &corpus, read_progress);
}

#[test]
fn safetensors_with_pickled_names() {
    let (_scratch, read) = in_folder("original/olmo2-gqa-safetensors", "model.safetensors");
    fuzz("pickled names", &["golden/original/olmo2-gqa-safetensors/model.safetensors"], read);
}

#[test]
fn safetensors() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("x.safetensors");
    let corpus = [
        "golden/hf/olmo2-gqa-bf16/model.safetensors",
        "golden/original/olmo-tied-pt/golden.safetensors",
    ];
    fuzz("safetensors", &corpus, |bytes| {
        fs::write(&path, bytes).expect("writes");
        let Ok(file) = TensorFile::open(&path) else { return };
        for name in file.names() {
            // Formats that are not of floating point are refused.
            let _ = file.get_f32(name);
        }
    });
}

#[test]
fn indexes() {
    let name = "model.safetensors.index.json";
    let (_scratch, read) = in_folder("hf/olmo2-gqa-sharded", name);
    fuzz("indexes", &["golden/hf/olmo2-gqa-sharded/model.safetensors.index.json"], read);
}

#[test]
fn configurations_of_transformers() {
    let corpus = [
        "golden/hf/olmo2/config.json",
        "golden/hf/olmo-gqa-clip-old-config/config.json",
        "golden/original/olmo-tied-hf-olmo/config.json",
    ];
    fuzz("config.json", &corpus, |bytes| {
        if let Ok(text) = str::from_utf8(bytes) {
            let path = Path::new("config.json");
            if let Ok(config) = HfConfig::parse(text, path) {
                let again =
                    HfConfig::parse(&config.to_json(), path).expect("what was written is read");
                assert_eq!(again.model, config.model);
            }
        }
    });
}

#[test]
fn configurations_of_ai2_olmo() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("config.yaml");
    let corpus =
        ["golden/original/olmo2-gqa-pt/config.yaml", "golden/original/olmo-tied-pt/config.yaml"];
    fuzz("config.yaml", &corpus, |bytes| {
        fs::write(&path, bytes).expect("writes");
        let _ = HfConfig::read_yaml(&path);
    });
}

#[test]
fn lists_of_sharded_checkpoints() {
    for folder in ["sharded/core-tp", "sharded/torch-new"] {
        let (_scratch, read) = in_folder(folder, "model_and_optim/.metadata");
        fuzz(folder, &[&format!("golden/{folder}/model_and_optim/.metadata")], read);
    }
}

#[test]
fn sharded_files() {
    for (folder, file) in [
        ("sharded/olmo-core", "model/metadata.json"),
        ("sharded/olmo-core-columns", "model/metadata.json"),
        ("sharded/olmo-core", "model/rank_1.safetensors"),
        ("sharded/core-tp", "model_and_optim/__1_0.distcp"),
        ("sharded/local", "model/rank1.pt"),
        ("sharded/torch-legacy", "rank1.pt"),
    ] {
        let (_scratch, read) = in_folder(folder, file);
        fuzz(folder, &[&format!("golden/{folder}/{file}")], read);
    }
}

#[test]
fn configurations_of_olmo_core() {
    let corpus = ["golden/sharded/core-tp/config.json", "golden/sharded/core-single/config.json"];
    fuzz("OLMo-core's config.json", &corpus, |bytes| {
        if let Ok(text) = str::from_utf8(bytes) {
            let _ = HfConfig::parse(text, Path::new("config.json"));
        }
    });
}

#[test]
fn generation_configurations() {
    let corpus = ["corpus/generation_config.json", "golden/hf/olmo2/generation_config.json"];
    fuzz("generation_config.json", &corpus, |bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return };
        let path = Path::new("generation_config.json");
        if let Ok(special) = Special::default().with_generation_config(text, path) {
            let again = special.to_generation_json();
            assert_eq!(Special::default().with_generation_config(&again, path).ok(), Some(special));
        }
    });
}

#[test]
fn tokenizers() {
    let scratch = tempfile::tempdir().expect("a folder");
    let path = scratch.path().join("tokenizer.json");
    fuzz("tokenizer.json", &["corpus/tokenizer.json"], |bytes| {
        fs::write(&path, bytes).expect("writes");
        let Ok(tokenizer) = Tokenizer::from_file(&path) else { return };
        if let Ok(ids) = tokenizer.encode("It is 12 o'clock, naïve — 生活") {
            let _ = tokenizer.decode(&ids, SpecialTokens::Keep);
        }
    });
}

/// The Hub's answers to `path`, damaged, to a pull and to a list of checkpoints.
fn answers(name: &str, path: &str, corpus: &str) {
    let (hub, cache) = (StandIn::start(), tempfile::tempdir().expect("a folder"));
    let files: Vec<_> = ["config.json", "model.safetensors"]
        .map(|file| (file, fs::read(golden("hf/olmo2").join(file)).expect("golden files")))
        .into();
    hub.commit("me/model", "main", &files);
    let repo: Repo = "me/model".parse().expect("a name");
    let settings = Settings {
        endpoint: hub.endpoint().to_owned(),
        cache: cache.path().to_owned(),
        token: None,
        offline: false,
        retry_delay: Duration::ZERO,
        n_workers: 1,
        xet: true,
    };
    let stop = AtomicBool::new(false);
    fuzz(name, &[corpus], |bytes| {
        hub.answer_with(path, bytes);
        let _ = hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &|_| ());
        let _ = hub::checkpoints(&repo, &settings);
        hub.clear_log();
        // The system keeps the port of a connection for a minute after its end, and has 28 000 of them.
        std::thread::sleep(Duration::from_millis(8));
    });
    // Whatever was answered, nothing lies outside of the repository's own folder, and it still pulls.
    hub.answer_with("", &[]);
    let mut pulled = hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &|_| ());
    for _ in 0..120 {
        // Whatever else runs may have used up the ports.
        if !matches!(pulled, Err(Error::Hub(HubError::Network { .. }))) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        pulled = hub::pull(&Pull { repo: &repo, settings: &settings, stop: &stop }, &|_| ());
    }
    pulled.expect("pulls");
    let mut names: Vec<_> = fs::read_dir(cache.path())
        .expect("there")
        .map(|entry| entry.expect("listed").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, [".locks", "models--me--model"]);
}

#[test]
fn answers_about_a_model() {
    answers("model information", "/revision/", "corpus/model_info.json");
}

#[test]
fn answers_about_files() {
    answers("lists of files", "/tree/", "corpus/tree.json");
}

#[test]
fn answers_about_branches() {
    answers("lists of branches", "/refs", "corpus/refs.json");
}
