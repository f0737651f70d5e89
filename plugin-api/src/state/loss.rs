//! Finds what is lost when state is read and written again.

use std::collections::{HashMap, HashSet};

use super::format::{Depth, FormatError, MOST_LEVELS};
use super::read::Item;
use super::tree::{Shape, Tree, digest};

/// How many losses are named.
const MOST_NAMED: usize = 5;
/// How many characters of a key are shown.
const MOST_OF_A_KEY: usize = 40;
/// How many pairs of a lost and a new key are compared with each other.
const MOST_PAIRS: usize = 1_024;

/// What of one value is missing in another, or different.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    lost: Vec<Lost>,
    /// Places that are known already, without the positions in arrays.
    places: HashSet<String>,
    /// Losses beyond those that are named.
    more: usize,
}

#[derive(Debug)]
struct Lost {
    place: String,
    how: How,
}

#[derive(Debug)]
enum How {
    /// The key is gone. These keys are new on the same level.
    Dropped {
        key: String,
        beside: Vec<String>,
    },
    Changed {
        from: String,
        to: String,
    },
}

impl Losses {
    /// What of the state `before` is lost in `after`. Keys that are new in `after` are no loss. Neither is a key that has another name
    /// and the same value, nor one without a value.
    pub(super) fn between(before: &[u8], after: &[u8]) -> Result<Self, FormatError> {
        let mut losses = Self::default();
        if before != after && digest(before)? != digest(after)? {
            losses.compare(&mut Place::start(), &Tree::read(before)?, &Tree::read(after)?);
        }
        Ok(losses)
    }

    /// Nothing is lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    /// A key was dropped where another is new: it may have been renamed.
    pub(crate) fn looks_renamed(&self) -> bool {
        self.renamed().is_some()
    }

    /// The first key that may have been renamed, and to what.
    fn renamed(&self) -> Option<(&str, &str)> {
        self.lost.iter().find_map(|lost| match &lost.how {
            How::Dropped { key, beside } => Some((&**key, &**beside.first()?)),
            How::Changed { .. } => None,
        })
    }

    fn compare<'t>(&mut self, place: &mut Place, before: &'t Tree<'t>, after: &'t Tree<'t>) {
        if before.digest == after.digest {
            return;
        }
        let is_deep = place.depth.enter().is_err();
        match (&before.shape, &after.shape) {
            // Good enough: what is inside differs.
            _ if is_deep => self.add(
                place,
                How::Changed {
                    from: shown(before),
                    to: shown(after),
                },
            ),
            (Shape::Some(before), Shape::Some(after)) => self.compare(place, before, after),
            (Shape::Array(before), Shape::Array(after)) => self.compare_items(place, before, after),
            (Shape::Map(before), Shape::Map(after)) => self.compare_entries(place, before, after),
            _ => self.add(
                place,
                How::Changed {
                    from: shown(before),
                    to: shown(after),
                },
            ),
        }
        place.depth.leave(1);
    }

    /// Compares what is not in both, in order.
    fn compare_items<'t>(&mut self, place: &mut Place, before: &'t [Tree<'t>], after: &'t [Tree<'t>]) {
        let mut same: HashMap<u64, usize> = HashMap::new();
        for item in before {
            *same.entry(item.digest).or_default() += 1;
        }
        let mut others = Vec::new();
        for item in after {
            match same.get_mut(&item.digest) {
                Some(left @ 1..) => *left -= 1,
                _ => others.push(item),
            }
        }
        let mut others = others.into_iter();
        for (index, item) in before.iter().enumerate() {
            match same.get_mut(&item.digest) {
                Some(left @ 1..) => *left -= 1,
                _ => continue,
            }
            place.at(&format!("[{index}]"), "[]", |place| match others.next() {
                Some(other) => self.compare(place, item, other),
                None => self.add(
                    place,
                    How::Changed {
                        from: shown(item),
                        to: "nothing".to_owned(),
                    },
                ),
            });
        }
    }

    fn compare_entries<'t>(
        &mut self,
        place: &mut Place,
        before: &'t [(Tree<'t>, Tree<'t>)],
        after: &'t [(Tree<'t>, Tree<'t>)],
    ) {
        let mut new: HashMap<u64, Vec<&(Tree<'_>, Tree<'_>)>> = HashMap::new();
        for entry in after.iter().rev() {
            new.entry(entry.0.digest).or_default().push(entry);
        }
        let mut dropped = Vec::new();
        for (key, value) in before {
            match new.get_mut(&key.digest).and_then(Vec::pop) {
                Some((_, other)) => {
                    let name = name_of(key);
                    place.at(&format!(".{name}"), &format!(".{name}"), |place| {
                        self.compare(place, value, other);
                    });
                }
                None => dropped.push((key, value)),
            }
        }
        if dropped.is_empty() {
            return;
        }
        // In the order of the fields.
        let left: HashSet<_> = new.into_values().flatten().map(std::ptr::from_ref).collect();
        let mut new: Vec<_> = after
            .iter()
            .filter(|entry| left.contains(&std::ptr::from_ref(*entry)))
            .collect();
        dropped.retain(|(_, value)| {
            if is_empty(value) {
                return false;
            }
            // A name that nothing else holds: it holds all of this value, so this value has a new name.
            let few = new.len() <= MOST_PAIRS;
            let renamed = new.iter().position(|(_, other)| few && holds(place, value, other));
            renamed.map(|at| new.remove(at)).is_none()
        });
        let beside: Vec<_> = new.iter().map(|(key, _)| name_of(key)).take(MOST_NAMED).collect();
        for (key, _) in dropped {
            let key = name_of(key);
            let how = How::Dropped {
                key: key.clone(),
                beside: beside.clone(),
            };
            place.at(&format!(".{key}"), &format!(".{key}"), |place| self.add(place, how));
        }
    }

    fn add(&mut self, place: &Place, how: How) {
        if !self.places.insert(place.pattern.clone()) {
            return;
        }
        if self.lost.len() == MOST_NAMED {
            self.more += 1;
            return;
        }
        let place = place.shown();
        self.lost.push(Lost { place, how });
    }

    /// What is lost, in words.
    pub(crate) fn shown(&self) -> String {
        let mut shown: Vec<String> = self.lost.iter().map(Lost::shown).collect();
        if self.more > 0 {
            shown.push(format!("{} more", self.more));
        }
        shown.join(", ")
    }

    /// What the author of a type can do about it. `by` reads state of earlier versions.
    pub(crate) fn remedy(&self, version: u32, reads_from: u32, by: &str) -> String {
        let raise = format!(
            "set `STATE_VERSION` to {} and `READS_FROM` to {reads_from}",
            version.saturating_add(1)
        );
        match self.renamed() {
            Some((old, new)) => format!(
                "if `{new}` is another name for `{old}`, write `#[serde(alias = \"{old}\")]` on it; otherwise {raise}, and write a \
                 `{by}` that reads the old state"
            ),
            None if self.lost.iter().all(|lost| matches!(lost.how, How::Dropped { .. })) => {
                format!("if that may be lost, {raise}")
            }
            None => format!("use types that serde reads as it wrote them; or if the values may change, {raise}"),
        }
    }
}

impl Lost {
    fn shown(&self) -> String {
        let Self { place, how } = self;
        match how {
            How::Dropped { beside, .. } if beside.is_empty() => format!("{place}: dropped"),
            How::Dropped { beside, .. } => {
                let new: Vec<_> = beside.iter().map(|key| format!("`{key}`")).collect();
                format!("{place}: dropped, while {} has its default", new.join(", "))
            }
            How::Changed { from, to } => format!("{place}: {from} → {to}"),
        }
    }
}

/// Whether nothing of `before` is lost in `after`.
fn holds<'t>(place: &Place, before: &'t Tree<'t>, after: &'t Tree<'t>) -> bool {
    let mut losses = Losses::default();
    let mut inside = Place {
        depth: place.depth.clone(),
        ..Place::start()
    };
    losses.compare(&mut inside, before, after);
    losses.is_empty()
}

/// Whether there is nothing in it that could be lost. `#[serde(skip_serializing_if = …)]` leaves such values out.
fn is_empty(value: &Tree<'_>) -> bool {
    match &value.shape {
        Shape::Leaf(leaf) => matches!(leaf, Item::Nil),
        Shape::Some(_) => false,
        Shape::Array(items) => items.is_empty(),
        Shape::Map(entries) => entries.is_empty(),
    }
}

/// Where a value stands.
struct Place {
    depth: Depth,
    path: String,
    /// The same, without positions in arrays.
    pattern: String,
}

impl Place {
    fn start() -> Self {
        Self {
            depth: Depth::up_to(MOST_LEVELS),
            path: String::new(),
            pattern: String::new(),
        }
    }

    fn at(&mut self, step: &str, pattern: &str, look: impl FnOnce(&mut Self)) {
        let (path_len, pattern_len) = (self.path.len(), self.pattern.len());
        self.path.push_str(step);
        self.pattern.push_str(pattern);
        look(self);
        self.path.truncate(path_len);
        self.pattern.truncate(pattern_len);
    }

    fn shown(&self) -> String {
        match self.path.strip_prefix('.').unwrap_or(&self.path) {
            "" => "the value itself".to_owned(),
            path => format!("`{path}`"),
        }
    }
}

fn name_of(key: &Tree<'_>) -> String {
    let name = match &key.shape {
        Shape::Leaf(Item::Text(text)) => (*text).to_owned(),
        _ => shown(key),
    };
    match name.char_indices().nth(MOST_OF_A_KEY) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

/// A value in few words. Texts are not shown: they may be secret.
fn shown(value: &Tree<'_>) -> String {
    match &value.shape {
        Shape::Leaf(Item::Bool(value)) => value.to_string(),
        Shape::Leaf(Item::Unsigned(value)) => value.to_string(),
        Shape::Leaf(Item::Signed(value)) => value.to_string(),
        Shape::Leaf(Item::F32(value)) => format!("{value:?}"),
        Shape::Leaf(Item::F64(value)) => format!("{value:?}"),
        Shape::Leaf(Item::Text("")) => "an empty text".to_owned(),
        Shape::Leaf(Item::Text(text)) => format!("a text of {} bytes", text.len()),
        Shape::Leaf(Item::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        Shape::Leaf(_) => "nothing".to_owned(),
        Shape::Some(value) => format!("Some({})", shown(value)),
        Shape::Array(items) => format!("{} items", items.len()),
        Shape::Map(entries) => format!("{} entries", entries.len()),
    }
}
