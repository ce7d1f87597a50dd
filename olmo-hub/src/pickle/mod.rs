//! Python pickles as plain data; nothing in one is ever run.
//!
//! A pickle is a program for a machine with a stack, and Python's own reader lets it call
//! anything. This one knows the opcodes that torch and ai2-olmo write, builds a tree of values,
//! and refuses by name what is not on the caller's list of globals: a call stays a node that says
//! what would have been called. Opcodes: `pickletools.py` of Python 3.13, protocols 2 to 5.
//!
//! Memory grows with the length of the pickle alone, for every opcode makes one node at most, and
//! both are bounded.

mod machine;
mod write;

use std::collections::HashMap;

pub(crate) use write::{Writer, key};

/// The most bytes that a pickle may have: a checkpoint of a thousand tensors needs 300 kB.
pub(crate) const MAX_BYTES: usize = 1 << 22;

/// The most bytes of a pickle that lists every piece of every tensor of a sharded checkpoint.
pub(crate) const MAX_LIST_BYTES: usize = 1 << 28;

/// The most values that a pickle may make.
const MAX_NODES: usize = 1 << 19;

/// The fewest bytes of a list of pieces that make a value, on average; those of torch 2.9 have six or more.
const BYTES_PER_NODE: usize = 4;

/// A value, by its place in [`Pickle::nodes`].
pub(crate) type Id = u32;

/// What a pickle says.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    /// What was set on objects, by their ids.
    states: HashMap<Id, Id>,
    root: Id,
}

/// One value; those that it holds are named by their ids. Of floats and bytes it is only known that
/// they are there: nothing that is read here has a use for them.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Bytes,
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// An index into the list of globals that the caller allows.
    Global(usize),
    /// What would be called, with what.
    Call(Id, Id),
    /// The id of an object that is kept elsewhere.
    Persistent(Id),
}

/// A global of Python: its module and its name.
pub(crate) type Global = (&'static str, &'static str);

/// The one class whose instances are read as plain dictionaries.
pub(crate) const ORDERED_DICT: Global = ("collections", "OrderedDict");

impl<'a> Pickle<'a> {
    /// Reads a pickle that may name `globals`, and no others.
    ///
    /// # Errors
    ///
    /// What is wrong, as text: an opcode or a global that is not read, a stack that is empty, an
    /// end that is not there, too many values.
    pub(crate) fn parse(bytes: &'a [u8], globals: &[Global]) -> Result<Self, String> {
        Self::parse_up_to(bytes, globals, MAX_BYTES, MAX_NODES)
    }

    /// Reads a pickle that lists the pieces of a sharded checkpoint.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_list(bytes: &'a [u8], globals: &[Global]) -> Result<Self, String> {
        let max_nodes = MAX_NODES.max(bytes.len() / BYTES_PER_NODE);
        Self::parse_up_to(bytes, globals, MAX_LIST_BYTES, max_nodes)
    }

    fn parse_up_to(
        bytes: &'a [u8],
        globals: &[Global],
        max_bytes: usize,
        max_nodes: usize,
    ) -> Result<Self, String> {
        if bytes.len() > max_bytes {
            let n_bytes = bytes.len();
            return Err(format!("its pickle has {n_bytes} bytes, expected at most {max_bytes}"));
        }
        machine::run(bytes, globals, max_nodes)
    }

    /// The value that the pickle is of.
    pub(crate) fn root(&self) -> &Node<'a> {
        self.node(self.root)
    }

    /// The id of the value that the pickle is of.
    pub(crate) fn root_id(&self) -> Id {
        self.root
    }

    /// The value of an id of this pickle.
    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        // The machine hands out ids of nodes that it has made, and nodes are never removed.
        &self.nodes[id as usize]
    }

    /// The elements of a tuple.
    pub(crate) fn tuple(&self, id: Id) -> Option<&[Id]> {
        if let Node::Tuple(items) = self.node(id) { Some(items) } else { None }
    }

    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        if let Node::Text(text) = self.node(id) { Some(text) } else { None }
    }

    /// The pairs of a dictionary.
    pub(crate) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        if let Node::Dict(pairs) = self.node(id) { Some(pairs) } else { None }
    }

    /// The elements of a list or a tuple.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a dictionary by its key.
    pub(crate) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let mut pairs = self.dict(dict)?.iter();
        pairs.find_map(|&(name, value)| (self.text(name) == Some(key)).then_some(value))
    }

    /// An attribute of an object whose state was set as a dictionary, or, where its class has
    /// slots, as a pair of which that is the second.
    pub(crate) fn attribute(&self, object: Id, name: &str) -> Option<Id> {
        let state = *self.states.get(&object)?;
        match *self.node(state) {
            Node::Tuple(ref pair) => self.entry(*pair.get(1)?, name),
            _ => self.entry(state, name),
        }
    }

    /// A whole number that is not negative.
    pub(crate) fn size(&self, id: Id) -> Option<u64> {
        if let Node::Int(value) = self.node(id) { u64::try_from(*value).ok() } else { None }
    }

    /// A tuple or list of sizes, also where it is the argument of a class such as `torch.Size`.
    pub(crate) fn sizes(&self, id: Id) -> Option<Vec<u64>> {
        match self.call(id) {
            Some((_, &[inner])) => self.items(inner)?,
            Some(_) => return None,
            None => self.items(id)?,
        }
        .iter()
        .map(|&item| self.size(item))
        .collect()
    }

    /// What is called and with what arguments, where `id` is a call of a global.
    pub(crate) fn call(&self, id: Id) -> Option<(usize, &[Id])> {
        let Node::Call(callable, arguments) = self.node(id) else { return None };
        let Node::Global(global) = self.node(*callable) else { return None };
        Some((*global, self.tuple(*arguments)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn shown(pickle: &Pickle<'_>, node: &Node<'_>, out: &mut String) {
        let list = |ids: &[Id], out: &mut String| {
            for &id in ids {
                shown(pickle, pickle.node(id), out);
                out.push(' ');
            }
        };
        match node {
            Node::Tuple(ids) => {
                out.push('(');
                list(ids, out);
                out.push(')');
            }
            Node::List(ids) => {
                out.push('[');
                list(ids, out);
                out.push(']');
            }
            Node::Dict(pairs) => {
                out.push('{');
                for &(key, value) in pairs {
                    list(&[key, value], out);
                }
                out.push('}');
            }
            other => write!(out, "{other:?}").unwrap(),
        }
    }

    fn parsed(bytes: &[u8]) -> String {
        let pickle = Pickle::parse(bytes, &[ORDERED_DICT]).unwrap();
        let mut out = String::new();
        shown(&pickle, pickle.root(), &mut out);
        out
    }

    fn refused(bytes: &[u8]) -> String {
        Pickle::parse(bytes, &[ORDERED_DICT]).unwrap_err()
    }

    #[test]
    fn values_of_every_protocol_are_read() {
        // `pickle.dumps((("a", -2), [1.5, None, True], {"k": 70000, 3: 2**40}), protocol)`.
        let expected = r#"((Text("a") Int(-2) ) [Float None Bool(true) ] {Text("k") Int(70000) Int(3) Int(1099511627776) } )"#;
        let protocol_2 = b"\x80\x02X\x01\x00\x00\x00aq\x00J\xfe\xff\xff\xff\x86q\x01]q\x02(G?\xf8\x00\x00\x00\x00\x00\x00N\x88e}q\x03(X\x01\x00\x00\x00kq\x04Jp\x11\x01\x00K\x03\x8a\x06\x00\x00\x00\x00\x00\x01u\x87q\x05.";
        let protocol_5 = b"\x80\x05\x955\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94J\xfe\xff\xff\xff\x86\x94]\x94(G?\xf8\x00\x00\x00\x00\x00\x00N\x88e}\x94(\x8c\x01k\x94Jp\x11\x01\x00K\x03\x8a\x06\x00\x00\x00\x00\x00\x01u\x87\x94.";
        assert_eq!(parsed(protocol_2), expected);
        assert_eq!(parsed(protocol_5), expected);
        // An ordered dictionary, with an attribute set afterwards.
        let ordered = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01K\x01K\x02s}b.";
        assert_eq!(parsed(ordered), "{Int(1) Int(2) }");
    }

    #[test]
    fn what_would_run_code_is_refused_by_name() {
        // `pickle.dumps` of objects whose `__reduce__` is `(os.system, ("true",))` and others.
        let system = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";
        assert!(refused(system).contains("posix.system"), "{}", refused(system));
        let stack =
            b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
        assert!(refused(stack).contains("os.system"), "{}", refused(stack));
        let old = b"cos\nsystem\n(S'true'\ntR.";
        assert!(refused(old).contains("os.system"), "{}", refused(old));
        let inst = b"(S'true'\nios\nsystem\n.";
        assert!(refused(inst).contains("opcode"), "{}", refused(inst));
        let calls_a_value = b"\x80\x02K\x01)R.";
        assert!(refused(calls_a_value).contains("calls"), "{}", refused(calls_a_value));
        let extension = b"\x80\x02\x82\x01.";
        assert!(refused(extension).contains("0x82"), "{}", refused(extension));
    }

    #[test]
    fn what_is_cut_short_or_makes_no_sense_is_refused() {
        let whole =
            b"\x80\x04\x95\x15\x00\x00\x00\x00\x00\x00\x00\x8c\x06wte.we\x94\x85\x94\x89\x86\x94.";
        assert_eq!(parsed(whole), r#"((Text("wte.we") ) Bool(false) )"#);
        for end in 0..whole.len() {
            refused(&whole[..end]);
        }
        for bytes in [
            &b"."[..],
            b"\x80\x02h\x05.",
            b"\x80\x02t.",
            b"\x80\x02(.",
            b"\x80\x02a.",
            b"\x80\x02K\x01K\x02.",
            b"\x80\x02X\xff\xff\xff\xffa.",
            b"\x80\x02X\x01\x00\x00\x00\xff.",
            b"\x80\x02\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01.",
            b"\x80\x02j\xff\xff\xff\xff.",
            b"\x80\x09N.",
            b"\x80\x02N.N",
        ] {
            refused(bytes);
        }
        let many = [&b"\x80\x02"[..], &vec![b'N'; MAX_NODES + 1], b"."].concat();
        assert!(refused(&many).contains("values"), "{}", refused(&many));
    }
}
