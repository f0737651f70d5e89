//! State as a tree, to compare two of them without their types.
//!
//! Equal trees have equal digests. A digest knows the order of a list, but neither that of a set nor that of a map: a `HashSet` is
//! written in another order each time. It takes a number for what it is, whatever its type: `1_u8` is `1.0_f64`.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::format::{FormatError, MOST_LEVELS};
use super::read::{Item, Reader};

/// A value, and what is in it.
pub(super) struct Tree<'a> {
    pub(super) digests: Digests,
    pub(super) shape: Shape<'a>,
}

/// Two digests of the same value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    /// The order of lists counts.
    pub(super) ordered: u64,
    /// No order counts, as if all lists were sets.
    pub(super) unordered: u64,
}

pub(super) enum Shape<'a> {
    Leaf(Item<'a>),
    Some(Box<Tree<'a>>),
    Array {
        items: Vec<Tree<'a>>,
        is_set: bool,
    },
    Map {
        entries: Vec<(Tree<'a>, Tree<'a>)>,
        /// The keys are data; otherwise they are the fields of a struct.
        is_data: bool,
    },
}

impl<'a> Tree<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, FormatError> {
        build(bytes, |part| {
            let digests = digests_of(&part, |tree: &Self| tree.digests);
            let shape = match part {
                Part::Leaf(leaf) => Shape::Leaf(leaf),
                Part::All(Kind::Some, mut inside) => match inside.pop() {
                    Some(value) => Shape::Some(value.into()),
                    None => Shape::Leaf(Item::Nil),
                },
                Part::All(Kind::Array { is_set }, items) => Shape::Array { items, is_set },
                Part::All(Kind::Map { is_data }, items) => {
                    let (mut items, mut entries) = (items.into_iter(), Vec::new());
                    while let (Some(key), Some(value)) = (items.next(), items.next()) {
                        entries.push((key, value));
                    }
                    Shape::Map { entries, is_data }
                }
            };
            Self { digests, shape }
        })
    }
}

/// The digest of a tree, which is not made. The order of lists counts.
pub(super) fn digest(bytes: &[u8]) -> Result<u64, FormatError> {
    build(bytes, |part| digest_of(&part, true, |digest| *digest))
}

#[derive(Clone, Copy)]
enum Kind {
    Some,
    Array {
        is_set: bool,
    },
    /// Keys and values by turns.
    Map {
        is_data: bool,
    },
}

/// A value whose parts are made already.
enum Part<'a, T> {
    Leaf(Item<'a>),
    All(Kind, Vec<T>),
}

/// Makes a `T` of each value, from the inside to the outside. Without recursion: that would take much of the stack.
fn build<'a, T>(bytes: &'a [u8], make: impl Fn(Part<'a, T>) -> T) -> Result<T, FormatError> {
    let mut reader = Reader::new(bytes);
    // Values that have begun: what they are, how many parts are missing, and the others.
    let mut open: Vec<(Kind, usize, Vec<T>)> = Vec::new();
    loop {
        let long = reader.has_long_header();
        let item = reader.next_item()?;
        let (kind, parts) = match item {
            Item::Some => (Kind::Some, 1),
            Item::Array(len) => (Kind::Array { is_set: long }, len),
            Item::Map(len) => (Kind::Map { is_data: long }, len * 2),
            _ => (Kind::Some, 0),
        };
        let mut value = match (item, parts) {
            (Item::Array(_) | Item::Map(_), 0) => make(Part::All(kind, Vec::new())),
            (leaf, 0) => make(Part::Leaf(leaf)),
            _ if open.len() >= MOST_LEVELS as usize => return Err(FormatError::new("it is nested too deep")),
            _ => {
                open.push((kind, parts, Vec::new()));
                continue;
            }
        };
        loop {
            let Some((_, missing, parts)) = open.last_mut() else {
                return Ok(value);
            };
            parts.push(value);
            *missing -= 1;
            if *missing > 0 {
                break;
            }
            let Some((kind, _, parts)) = open.pop() else {
                return Err(FormatError::new("it is not MessagePack"));
            };
            value = make(Part::All(kind, parts));
        }
    }
}

fn digests_of<T>(part: &Part<'_, T>, digests: impl Fn(&T) -> Digests) -> Digests {
    let ordered = digest_of(part, true, |part| digests(part).ordered);
    let unordered = match part {
        Part::Leaf(_) => ordered,
        Part::All(..) => digest_of(part, false, |part| digests(part).unordered),
    };
    Digests { ordered, unordered }
}

fn digest_of<T>(part: &Part<'_, T>, is_ordered: bool, digest: impl Fn(&T) -> u64) -> u64 {
    match part {
        Part::Leaf(leaf) => digest_of_leaf(leaf),
        Part::All(Kind::Some, inside) => hashed(("some", inside.first().map(digest))),
        Part::All(Kind::Array { is_set: false }, items) if is_ordered => {
            let mut hasher = DefaultHasher::new();
            ("list", items.len()).hash(&mut hasher);
            items.iter().for_each(|item| digest(item).hash(&mut hasher));
            hasher.finish()
        }
        Part::All(Kind::Array { .. }, items) => {
            let sum = items.iter().map(digest).fold(0, u64::wrapping_add);
            hashed(("array", items.len(), sum))
        }
        Part::All(Kind::Map { .. }, items) => {
            let entries = items.chunks(2);
            let entries = entries.map(|entry| hashed(("entry", entry.first().map(&digest), entry.get(1).map(&digest))));
            hashed(("map", items.len(), entries.fold(0, u64::wrapping_add)))
        }
    }
}

fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn digest_of_leaf(leaf: &Item<'_>) -> u64 {
    match leaf {
        Item::Bool(value) => hashed(("bool", value)),
        Item::Unsigned(value) => hashed(("integer", i128::from(*value))),
        Item::Signed(value) => hashed(("integer", i128::from(*value))),
        Item::F32(value) => digest_of_float((*value).into()),
        Item::F64(value) => digest_of_float(*value),
        Item::Text(value) => hashed(("text", value)),
        Item::Bytes(value) => match long_number(value) {
            Some(number) => hashed(("integer", number)),
            None => hashed(("bytes", value)),
        },
        Item::Nil | Item::Array(_) | Item::Map(_) | Item::Some => hashed("nil"),
    }
}

/// The integer of 128 bits that these bytes may be, if it fits into 64 bits. Earlier versions of this crate wrote it so.
fn long_number(bytes: &[u8]) -> Option<i128> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    u64::try_from(number).ok().map(i128::from)
}

/// A float that is an integer has the digest of that integer.
fn digest_of_float(value: f64) -> u64 {
    let integer = value as i128;
    if integer as f64 == value && value.abs() < 2_f64.powi(100) && !(value == 0.0 && value.is_sign_negative()) {
        return hashed(("integer", integer));
    }
    hashed(("float", value.to_bits()))
}
