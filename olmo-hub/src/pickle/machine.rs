//! The stack machine that a pickle is a program for.

use std::collections::HashMap;

use super::{Global, Id, Node, ORDERED_DICT, Pickle};

/// The most lists and calls that are open at a time; Python opens one for each level of nesting.
const MAX_MARKS: usize = 1 << 10;

/// Runs a pickle to its end: the values made, and the one that is left.
pub(super) fn run<'a>(
    bytes: &'a [u8],
    globals: &[Global],
    max_nodes: usize,
) -> Result<Pickle<'a>, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        globals,
        max_nodes,
        states: HashMap::new(),
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
    };
    while !machine.step()? {}
    if machine.at != bytes.len() {
        return Err(format!("{} bytes follow the end of its pickle", bytes.len() - machine.at));
    }
    match machine.stack[..] {
        [root] if machine.marks.is_empty() => {
            Ok(Pickle { nodes: machine.nodes, states: machine.states, root })
        }
        _ => Err(format!("its pickle ends with {} values, expected one", machine.stack.len())),
    }
}

struct Machine<'a, 'g> {
    bytes: &'a [u8],
    at: usize,
    globals: &'g [Global],
    max_nodes: usize,
    /// What was set on objects.
    states: HashMap<Id, Id>,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack that were marked.
    marks: Vec<usize>,
    memo: Vec<Id>,
}

impl<'a> Machine<'a, '_> {
    /// Runs one opcode; true at the end.
    fn step(&mut self) -> Result<bool, String> {
        let [opcode] = *self.take()?;
        match opcode {
            b'.' => return Ok(true),
            0x80 => self.protocol()?,
            // A frame only says how many bytes belong together.
            0x95 => drop(self.take::<8>()?),
            b'(' => self.mark()?,
            b'0' => drop(self.pop()?),
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'J' | b'K' | b'M' | 0x8A => self.int(opcode)?,
            b'G' => {
                self.take::<8>()?;
                self.push(Node::Float)?;
            }
            b'X' | 0x8C | 0x8D | b'C' | b'B' | 0x8E => self.string(opcode)?,
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b')' => self.push(Node::Tuple(Box::default()))?,
            0x85..=0x87 => self.short_tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items.into()))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)?;
            }
            b'q' | b'r' | 0x94 => self.memoize(opcode)?,
            b'h' | b'j' => self.recall(opcode)?,
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => self.stack_global()?,
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))?;
            }
            _ => return Err(self.unknown(opcode)),
        }
        Ok(false)
    }

    fn unknown(&self, opcode: u8) -> String {
        let (at, shown) = (self.at - 1, char::from(opcode).escape_default());
        format!(
            "its pickle has the opcode {opcode:#04x} ('{shown}') at byte {at}, which is not read"
        )
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], String> {
        let bytes = self.bytes[self.at..].first_chunk().ok_or("its pickle is cut short")?;
        self.at += N;
        Ok(bytes)
    }

    fn take_slice(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).ok();
        let bytes = length.and_then(|length| self.bytes[self.at..].get(..length));
        let bytes = bytes.ok_or("its pickle is cut short")?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is cut short")?;
        self.at += end + 1;
        str::from_utf8(&rest[..end]).map_err(|_| "its pickle has text that is no UTF-8".to_owned())
    }

    fn too_many(&self) -> String {
        format!("its pickle has more than {} values", self.max_nodes)
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        if self.nodes.len() == self.max_nodes {
            return Err(self.too_many());
        }
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), String> {
        if self.marks.len() == MAX_MARKS {
            return Err(format!("its pickle has more than {MAX_MARKS} marks at a time"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.len() > floor;
        above.then(|| self.stack.pop()).flatten().ok_or_else(|| self.nothing_there())
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(|| self.nothing_there())?;
        Ok(self.stack.split_off(mark))
    }

    fn nothing_there(&self) -> String {
        format!("its pickle takes a value at byte {} where there is none", self.at - 1)
    }

    fn top(&mut self) -> Result<&mut Node<'a>, String> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(&mut self.nodes[id as usize])
    }

    fn protocol(&mut self) -> Result<(), String> {
        match *self.take()? {
            [2..=5] => Ok(()),
            [other] => Err(format!("its pickle is of protocol {other}, supported are 2 to 5")),
        }
    }

    fn int(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'J' => i64::from(i32::from_le_bytes(*self.take()?)),
            b'K' => i64::from(u8::from_le_bytes(*self.take()?)),
            b'M' => i64::from(u16::from_le_bytes(*self.take()?)),
            _ => {
                let [length] = *self.take()?;
                let bytes = self.take_slice(length.into())?;
                if length > 8 {
                    return Err(format!("its pickle has a number of {length} bytes, at most 8"));
                }
                // Two's complement: the last byte's sign fills what is not there.
                let negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
                let mut whole = if negative { [0xFF; 8] } else { [0; 8] };
                whole[..bytes.len()].copy_from_slice(bytes);
                i64::from_le_bytes(whole)
            }
        };
        self.push(Node::Int(value))
    }

    fn string(&mut self, opcode: u8) -> Result<(), String> {
        let length = match opcode {
            0x8C | b'C' => u64::from(u8::from_le_bytes(*self.take()?)),
            b'X' | b'B' => u64::from(u32::from_le_bytes(*self.take()?)),
            _ => u64::from_le_bytes(*self.take()?),
        };
        let bytes = self.take_slice(length)?;
        if matches!(opcode, b'C' | b'B' | 0x8E) {
            return self.push(Node::Bytes);
        }
        let text = str::from_utf8(bytes).map_err(|_| "its pickle has text that is no UTF-8")?;
        self.push(Node::Text(text))
    }

    fn short_tuple(&mut self, length: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(length);
        for _ in 0..length {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items.into()))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        let at = self.at - 1;
        match self.top()? {
            Node::List(list) => list.extend(items),
            _ => return Err(format!("its pickle appends at byte {at} to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let at = self.at - 1;
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top()? {
            Node::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
            }
            _ => return Err(format!("its pickle sets items at byte {at} that are no pairs")),
        }
        Ok(())
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), String> {
        let index = match opcode {
            b'q' => usize::from(u8::from_le_bytes(*self.take()?)),
            b'r' => u32::from_le_bytes(*self.take()?) as usize,
            _ => self.memo.len(),
        };
        let id = self.pop()?;
        self.stack.push(id);
        // Python numbers its memo from zero without gaps.
        match index.cmp(&self.memo.len()) {
            std::cmp::Ordering::Less => self.memo[index] = id,
            // Nor does it remember a value twice.
            std::cmp::Ordering::Equal if index < self.max_nodes => self.memo.push(id),
            std::cmp::Ordering::Equal => return Err(self.too_many()),
            std::cmp::Ordering::Greater => {
                return Err(format!("its pickle remembers value {index} out of turn"));
            }
        }
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), String> {
        let index = match opcode {
            b'h' => usize::from(u8::from_le_bytes(*self.take()?)),
            _ => u32::from_le_bytes(*self.take()?) as usize,
        };
        let id = self.memo.get(index);
        let id = id.ok_or_else(|| format!("its pickle recalls value {index} that is not there"))?;
        if self.stack.len() == self.max_nodes {
            return Err(self.too_many());
        }
        self.stack.push(*id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = self.globals.iter().position(|global| *global == (module, name));
        let known = known.ok_or_else(|| {
            let shown = format!("{module}.{name}");
            format!("its pickle names {}, which is not read and never run", shown.escape_debug())
        })?;
        self.push(Node::Global(known))
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        match (&self.nodes[module as usize], &self.nodes[name as usize]) {
            (&Node::Text(module), &Node::Text(name)) => self.global(module, name),
            _ => Err("its pickle names a global by what is no text".to_owned()),
        }
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        // What a call would give may be a class too: `getattr(ShardedTensor, "…")`.
        let global = match self.nodes[callable as usize] {
            Node::Global(global) => Some(global),
            Node::Call(..) => None,
            _ => return Err(format!("its pickle calls at byte {} what is no global", self.at - 1)),
        };
        let Node::Tuple(items) = &self.nodes[arguments as usize] else {
            return Err(format!("its pickle calls at byte {} without a tuple", self.at - 1));
        };
        if global.is_some_and(|global| self.globals[global] == ORDERED_DICT) && items.is_empty() {
            return self.push(Node::Dict(Vec::new()));
        }
        self.push(Node::Call(callable, arguments))
    }

    /// State is set on an object, and kept beside it. On a dictionary it is an attribute such as
    /// torch's `_metadata`, which says nothing about tensors.
    fn build(&mut self) -> Result<(), String> {
        let (state, object) = (self.pop()?, self.pop()?);
        self.stack.push(object);
        match self.nodes[object as usize] {
            Node::Dict(_) => {}
            Node::Call(..) => drop(self.states.insert(object, state)),
            _ => {
                let at = self.at - 1;
                return Err(format!("its pickle sets attributes at byte {at}, which is not read"));
            }
        }
        Ok(())
    }
}
