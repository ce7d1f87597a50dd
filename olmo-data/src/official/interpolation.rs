//! `OmegaConf`'s `${…}`: other fields, environment variables, and the trainer's resolvers.
//!
//! | | gives |
//! |---|---|
//! | `${a.b}` | the field of that path, of any type where nothing stands around it |
//! | `${oc.env:VAR}`, `${oc.env:VAR,default}` | an environment variable |
//! | `${path.choose:a,b}` | the first that is a URL or exists |
//! | `${path.glob:a*,b*}` | the files that match, sorted within each pattern |
//! | `${path.last_checkpoint:dir}` | the folder `stepN` of the latest step, a sharded one if it has both |
//!
//! They may stand in one another. `\${` is a plain `${`.

use std::path::Path;

use serde_json::Value;

/// How deep fields may refer to fields, so that a circle is noticed.
const MAX_DEPTH: usize = 32;

/// Works out a value and all in it.
pub(super) fn resolve(root: &Value, value: &Value, depth: usize) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => resolve_text(root, text, depth)?,
        Value::Array(values) => {
            let resolved = values.iter().map(|value| resolve(root, value, depth));
            Value::Array(resolved.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let value = resolve(root, value, depth).map_err(|e| format!("{name}: {e}"))?;
                Ok::<_, String>((name.clone(), value))
            };
            Value::Object(fields.iter().map(field).collect::<Result<_, _>>()?)
        }
        plain => plain.clone(),
    })
}

/// The value at a path of field names, as it is written.
pub(super) fn find<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(root, |value, name| match value {
        Value::Array(values) => values.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })
}

fn resolve_text(root: &Value, text: &str, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{text:?} refers to itself"));
    }
    let mut whole = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('\\') {
            whole += before;
            whole += "${";
            rest = &rest[at + 2..];
            continue;
        }
        let inside = &rest[at + 2..];
        let end = closing_brace(inside).ok_or_else(|| format!("{text:?} has no closing brace"))?;
        let value = resolve_inside(root, &inside[..end], depth)?;
        let after = &inside[end + 1..];
        if at == 0 && after.is_empty() && whole.is_empty() {
            return Ok(value);
        }
        whole += &rest[..at];
        match value {
            Value::String(text) => whole += &text,
            Value::Null => whole += "None",
            Value::Bool(value) => whole += if value { "True" } else { "False" },
            Value::Number(number) => whole += &number.to_string(),
            _ => return Err(format!("{text:?} has a list or a section inside a text")),
        }
        rest = after;
    }
    whole += rest;
    Ok(Value::String(whole))
}

/// What stands between `${` and `}`.
fn resolve_inside(root: &Value, inside: &str, depth: usize) -> Result<Value, String> {
    let is_name = |c: char| c.is_alphanumeric() || "_.".contains(c);
    if let Some((name, arguments)) = inside.split_once(':')
        && name.chars().all(is_name)
    {
        let arguments = split_arguments(arguments)
            .into_iter()
            .map(|argument| match resolve_text(root, argument.trim(), depth + 1)? {
                Value::String(text) => Ok(text),
                Value::Array(_) | Value::Object(_) => Err(format!("{argument:?} is no text")),
                other => Ok(other.to_string()),
            })
            .collect::<Result<Vec<_>, String>>()?;
        return call(name, &arguments);
    }
    let path = match resolve_text(root, inside.trim(), depth + 1)? {
        Value::String(path) => path,
        other => other.to_string(),
    };
    let value = find(root, &path).ok_or_else(|| format!("${{{path}}} is no field of this file"))?;
    resolve(root, value, depth + 1)
}

fn call(name: &str, arguments: &[String]) -> Result<Value, String> {
    match (name, arguments) {
        ("oc.env", [variable]) => std::env::var(variable).map(Value::String).map_err(|_| {
            format!("the environment variable {variable} is not set, and has no default")
        }),
        ("oc.env", [variable, default]) => Ok(match std::env::var(variable) {
            Ok(value) => Value::String(value),
            Err(_) if default == "null" => Value::Null,
            Err(_) => Value::String(default.clone()),
        }),
        ("path.choose", paths) if !paths.is_empty() => paths
            .iter()
            .find(|path| path.contains("://") || Path::new(path).exists())
            .map(|path| Value::String(path.clone()))
            .ok_or_else(|| {
                let paths = paths.join(", ");
                format!("none of {paths} exists; make one of them, or give the field a value")
            }),
        ("path.glob", patterns) if !patterns.is_empty() => {
            let mut found = Vec::new();
            for pattern in patterns {
                let paths = glob::glob(pattern).map_err(|e| format!("{pattern}: {e}"))?;
                let before = found.len();
                for path in paths {
                    let path = path.map_err(|error| error.to_string())?;
                    found.push(Value::String(path.to_string_lossy().into_owned()));
                }
                if found.len() == before {
                    return Err(format!("{pattern} does not match any files or folders"));
                }
            }
            Ok(Value::Array(found))
        }
        ("path.last_checkpoint", [folder]) => last_checkpoint(Path::new(folder))
            .map(Value::String)
            .ok_or_else(|| format!("there is no checkpoint in {folder}")),
        _ => Err(format!(
            "${{{name}:…}} with {} arguments is not known; known are oc.env:VAR[,DEFAULT], \
             path.choose:A,B, path.glob:PATTERN and path.last_checkpoint:FOLDER",
            arguments.len()
        )),
    }
}

/// The folder of the latest step.
fn last_checkpoint(folder: &Path) -> Option<String> {
    let steps = std::fs::read_dir(folder).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.strip_prefix("step")?;
        let number = name.strip_suffix("-unsharded").unwrap_or(name);
        let step: u64 = number.parse().ok()?;
        path.is_dir().then(|| (step, number == name, path.to_string_lossy().into_owned()))
    });
    steps.max().map(|(_, _, path)| path)
}

/// The place of the brace that closes what begins here.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Arguments between commas that stand in no braces.
fn split_arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut start) = (0, 0);
    let mut arguments = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    arguments.push(&text[start..]);
    arguments
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolved(root: &Value, path: &str) -> Result<Value, String> {
        resolve(root, find(root, path).unwrap(), 0)
    }

    #[test]
    fn fields_refer_to_fields() {
        let root = json!({
            "n": 8, "name": "run", "deep": {"list": [1, "${name}"]},
            "same": "${n}", "text": "runs/${name}-${n}", "far": "${deep.list}", "one": "${deep.list.1}",
            "plain": "\\${n}", "loop": "${pool}", "pool": "${loop}", "none": "${nothing}", "open": "${n",
        });
        assert_eq!(resolved(&root, "same").unwrap(), 8);
        assert_eq!(resolved(&root, "text").unwrap(), "runs/run-8");
        assert_eq!(resolved(&root, "far").unwrap(), json!([1, "run"]));
        assert_eq!(resolved(&root, "one").unwrap(), "run");
        assert_eq!(resolved(&root, "plain").unwrap(), "${n}");
        assert!(resolved(&root, "loop").unwrap_err().contains("itself"));
        assert!(resolved(&root, "none").unwrap_err().contains("nothing"));
        assert!(resolved(&root, "open").unwrap_err().contains("closing"));
    }

    #[test]
    fn resolvers_are_the_trainers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step20", "step20-unsharded", "step100", "stepx", "latest"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let at = folder.path().display();
        let root = json!({
            "name": "run",
            "save": format!("${{path.choose:${{oc.env:NO_SUCH_VARIABLE_HERE,no_exist}}/checkpoints,{at}}}/${{name}}"),
            "url": "${path.choose:s3://bucket/x,/nowhere}",
            "all": format!("${{path.glob:{at}/step1*,{at}/step20*}}"),
            "last": format!("${{path.last_checkpoint:{at}}}"),
            "unset": "${oc.env:NO_SUCH_VARIABLE_HERE}",
            "null": "${oc.env:NO_SUCH_VARIABLE_HERE,null}",
            "missing": "${path.choose:/nowhere/a,/nowhere/b}",
            "unknown": "${no.such:1}",
            "nomatch": "${path.glob:/nowhere/*.npy}",
        });
        assert_eq!(resolved(&root, "save").unwrap(), format!("{at}/run"));
        assert_eq!(resolved(&root, "url").unwrap(), "s3://bucket/x");
        let names = ["step100", "step20", "step20-unsharded"].map(|name| format!("{at}/{name}"));
        assert_eq!(resolved(&root, "all").unwrap(), json!(names));
        assert_eq!(resolved(&root, "last").unwrap(), format!("{at}/step100"));
        assert_eq!(resolved(&root, "null").unwrap(), Value::Null);
        for wrong in ["unset", "missing", "unknown", "nomatch"] {
            assert!(resolved(&root, wrong).is_err(), "{wrong}");
        }
    }
}
