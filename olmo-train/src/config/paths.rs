//! Where the files of a configuration are now: its `path_map`.

use olmo_data::PathMap;
use serde_json::Value;

/// Takes `path_map: {FROM: TO}` out of a configuration and replaces the beginnings of the paths of
/// token files and label masks, of training and of evaluators. A URL that no rule fits stays as it is,
/// so that a run can be reckoned whose files are elsewhere.
pub(super) fn map_paths(value: &mut Value) -> Result<(), String> {
    let Some(rules) = value.as_object_mut().and_then(|fields| fields.remove("path_map")) else {
        return Ok(());
    };
    let map: Option<PathMap> = serde_json::from_value(rules.clone()).map_err(|error| {
        format!("path_map is {rules}, expected {{beginning of a path: its place}}: {error}")
    })?;
    let map = map.unwrap_or_default();
    for pointer in [
        "/data/paths",
        "/data/label_mask_paths",
        "/data/dataset/sources/*/paths",
        "/data/dataset/interleaving_exempt_paths",
        "/evaluators/*/paths",
        "/evaluators/*/datasets/*",
    ] {
        let steps: Vec<&str> = pointer.split('/').skip(1).collect();
        at_each(value, &steps, &mut |paths| {
            for path in paths.as_array_mut().into_iter().flatten() {
                if let Value::String(text) = path
                    && let Ok(mapped) = map.resolve(text)
                {
                    *text = mapped.to_string_lossy().into_owned();
                }
            }
        });
    }
    Ok(())
}

/// Does something with each value at a path of names, of which `*` is any.
fn at_each(value: &mut Value, steps: &[&str], f: &mut dyn FnMut(&mut Value)) {
    let Some((step, rest)) = steps.split_first() else { return f(value) };
    match value {
        Value::Array(items) if *step == "*" => {
            for item in items {
                at_each(item, rest, f);
            }
        }
        Value::Object(fields) if *step == "*" => {
            for field in fields.values_mut() {
                at_each(field, rest, f);
            }
        }
        value => {
            if let Some(field) = value.get_mut(*step) {
                at_each(field, rest, f);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_rule_that_fits_replaces_the_beginning_of_every_path_of_data() {
        let mut value = json!({
            "path_map": {"s3://bucket": "/data", "s3://bucket/books": "/books"},
            "data": {
                "paths": ["s3://bucket/a.npy", "s3://bucket/books/b.npy", "here.npy", "https://host/c.npy"],
                "label_mask_paths": ["s3://bucket/m.npy"],
                "dataset": {"sources": [{"paths": ["s3://bucket/s.npy"]}]},
            },
            "evaluators": [
                {"paths": ["s3://bucket/e.npy"]},
                {"datasets": {"c4": ["s3://bucket/f.npy"]}},
            ],
            "load_path": "s3://bucket/step5",
        });
        map_paths(&mut value).expect("rules");
        let expected = json!({
            "data": {
                "paths": ["/data/a.npy", "/books/b.npy", "here.npy", "https://host/c.npy"],
                "label_mask_paths": ["/data/m.npy"],
                "dataset": {"sources": [{"paths": ["/data/s.npy"]}]},
            },
            "evaluators": [{"paths": ["/data/e.npy"]}, {"datasets": {"c4": ["/data/f.npy"]}}],
            "load_path": "s3://bucket/step5",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for (wrong, part) in [
            (json!(["s3://a=/b"]), "expected {beginning"),
            (json!({"": "/b"}), "no rule for paths"),
        ] {
            let message = map_paths(&mut json!({"path_map": wrong})).expect_err("no map");
            assert!(message.starts_with("path_map") && message.contains(part), "{message}");
        }
        assert_eq!(map_paths(&mut json!({"path_map": null})), Ok(()));
        assert_eq!(map_paths(&mut json!([])), Ok(()));
    }
}
