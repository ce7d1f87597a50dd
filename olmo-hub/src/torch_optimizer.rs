//! The state dictionary of a torch optimizer, as `optim.state_dict()` makes it: its tensors by the
//! parameter that they are of.
//!
//! Parameters are numbered where a run was on one device or with DDP, and each process of FSDP's `local`
//! checkpoints numbers them too; they are named where FSDP gathered the state. The groups of parameters say
//! which name a number has. Source: `torch/optim/optimizer.py` of torch 2.9, ai2-olmo `olmo/optim.py`.

use std::collections::HashMap;

use crate::header::Entry;
use crate::pickle::{Id, Node};
use crate::torch_file::Reader;

/// What is kept of each parameter: its name as it stands there, and tensors by their own names.
pub(crate) type States = Vec<(String, Vec<(String, Entry)>)>;

/// The tensors of each parameter's state.
pub(crate) fn states(reader: &Reader<'_>) -> Result<States, String> {
    let pickle = reader.pickle;
    let part = |name: &str| {
        let found = pickle.entry(pickle.root_id(), name);
        found.ok_or_else(|| format!("it has no {name}, as the state of a torch optimizer has"))
    };
    let names = names(reader, part("param_groups")?)?;
    let pairs = part("state")?;
    let pairs = pickle.dict(pairs).ok_or("its state is no dictionary")?;
    let mut states = Vec::new();
    for &(key, state) in pairs {
        let name = match pickle.node(key) {
            Node::Text(name) => Some((*name).to_owned()),
            Node::Int(number) => names.get(number).cloned(),
            _ => None,
        };
        let name = name.ok_or("its state is of a parameter that no group of parameters names")?;
        let state = pickle.dict(state).ok_or_else(|| format!("{name} has no dictionary"))?;
        let mut tensors = Vec::new();
        for &(key, value) in state {
            let key =
                pickle.text(key).ok_or_else(|| format!("{name} has a key that is no text"))?;
            // Plain numbers, and nothing, are not read here.
            if pickle.call(value).is_some() {
                let entry = reader.tensor(format!("{name}.{key}"), value)?;
                tensors.push((key.to_owned(), entry));
            }
        }
        states.push((name, tensors));
    }
    Ok(states)
}

/// The names of parameters by their numbers.
fn names(reader: &Reader<'_>, groups: Id) -> Result<HashMap<i64, String>, String> {
    let pickle = reader.pickle;
    let mut names = HashMap::new();
    for &group in pickle.items(groups).ok_or("its param_groups are no list")? {
        let list = |name: &str| pickle.entry(group, name).and_then(|id| pickle.items(id));
        let params = list("params").ok_or("a group of its parameters has no list of them")?;
        for (&number, &name) in params.iter().zip(list("param_names").unwrap_or_default()) {
            if let (Node::Int(number), Some(name)) = (pickle.node(number), pickle.text(name)) {
                names.insert(*number, name.to_owned());
            }
        }
    }
    Ok(names)
}
