//! Tokenizers and token files against vectors of Hugging Face's `tokenizers` and of Dolma.
//!
//! The vectors are made by `scripts/golden/dolma_tokens.py`.

use std::io::Read;
use std::path::{Path, PathBuf};

use olmo_data::{
    BadRows, BpeTraining, Corpus, SpecialTokens, TokenDtype, TokenFile, TokenStream, Tokenize,
    Tokenizer,
};
use serde_json::Value;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/data/dolma_tokens.json");
    serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn tokenizer(golden: &Value) -> Tokenizer {
    Tokenizer::from_bytes(golden["tokenizer"].to_string()).expect("a tokenizer")
}

fn unpack(path: &Path) -> String {
    let file = std::fs::File::open(path).expect("the bounds");
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut unpacked).expect("gzip");
    unpacked
}

#[test]
fn training_gives_the_reference_vocabulary() {
    let golden = golden();
    let training = &golden["training"];
    let texts = list(&training["texts"]).iter().map(|one| Ok(text(one).to_owned()));
    let vocab_size = training["vocab_size"].as_u64().expect("a size") as usize;
    let trained = BpeTraining::new(vocab_size).train(texts).expect("trained");
    let vocab = golden["tokenizer"]["model"]["vocab"].as_object().expect("a vocabulary");
    assert_eq!((trained.vocab_size(), vocab.len()), (vocab_size, vocab_size));
    for (token, id) in vocab {
        assert_eq!(trained.token_to_id(token).map(u64::from), id.as_u64(), "{token}");
    }
    for case in list(&golden["encodings"]) {
        assert_eq!(trained.encode(text(&case["text"])).expect("encoded"), ids(&case["ids"]));
    }
}

#[test]
fn encodings_and_decodings_are_the_references() {
    let golden = golden();
    let tokenizer = tokenizer(&golden);
    assert!(list(&golden["encodings"]).len() > 15);
    for case in list(&golden["encodings"]) {
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text(&case["text"])).expect("encoded"), ids);
        let modes = [(SpecialTokens::Skip, "skipped"), (SpecialTokens::Keep, "kept")];
        for (special, expected) in modes {
            assert_eq!(tokenizer.decode(&ids, special).expect("decoded"), text(&case[expected]));
            let mut stream = TokenStream::new(tokenizer.clone(), special);
            let mut streamed = String::new();
            for &id in &ids {
                streamed.extend(stream.push(id).expect("a known id"));
            }
            streamed.extend(stream.finish().expect("decoded"));
            assert_eq!(streamed, text(&case[expected]));
        }
    }
}

#[test]
fn token_files_and_bounds_are_dolmas_to_the_byte() {
    let golden = golden();
    let tokenizer = tokenizer(&golden);
    for run in list(&golden["runs"]) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut paths: Vec<PathBuf> = Vec::new();
        for name in list(&run["order"]) {
            let path = folder.path().join(text(name));
            std::fs::write(&path, text(&golden["files"][text(name)])).expect("written");
            paths.push(path);
        }
        // Dolma skips bad rows with a warning.
        let corpus = Corpus::new(paths, BadRows::Count).expect("a corpus");
        let out = folder.path().join("tokens");
        let report = Tokenize::new(&tokenizer)
            .expect("an end-of-text token")
            .with_max_tokens_per_file(run["max_tokens"].as_u64().expect("a limit"))
            .run(&corpus, &out)
            .expect("tokenized");
        assert_eq!((report.n_documents, report.n_empty_documents, report.n_bad_rows), (12, 2, 3));
        assert_eq!(report.dtype, TokenDtype::Uint16);

        let parts = list(&run["parts"]);
        let names: Vec<PathBuf> = parts.iter().map(|part| out.join(text(&part["name"]))).collect();
        assert_eq!(report.files, names);
        for (part, path) in parts.iter().zip(&names) {
            let file = TokenFile::open(path, report.dtype).expect("tokens");
            assert_eq!(file.read(0..file.len()).expect("read"), ids(&part["tokens"]));
            let bounds = text(&part["bounds"])
                .replace("{folder}", folder.path().to_str().expect("a plain path"));
            assert_eq!(unpack(&path.with_extension("csv.gz")), bounds);
        }
    }
}
