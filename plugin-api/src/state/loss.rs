//! Finds what is lost when state is read and written again.

use std::collections::{HashMap, HashSet, VecDeque};

use super::format::{Depth, FormatError, MOST_LEVELS};
use super::read::{Item, tells};
use super::tree::{Shape, Tree, digest};

/// How many losses are named.
const MOST_NAMED: usize = 5;
/// How many characters of a key are shown.
const MOST_OF_A_KEY: usize = 40;
/// How many pairs of a lost and a new key are compared with each other.
const MOST_PAIRS: usize = 1_024;
/// How many items of a set are compared with each other if they have changed.
const MOST_ITEMS: usize = 64;

/// What of one value is missing in another, or different.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// As many as are named.
    lost: Vec<Lost>,
    /// Places that are known already, without the positions in arrays.
    places: HashSet<String>,
    /// Losses beyond those that are named.
    more: usize,
    /// The first key that may have been renamed, and to what.
    renamed: Option<(String, String)>,
    /// A value is different, rather than gone.
    is_changed: bool,
    /// A field is left out, and has another value when it is read again.
    is_misread: bool,
    /// Lists that come back in another order, without the positions in arrays. Their types may have no order.
    reordered: HashSet<String>,
    /// Keys that are new, if somebody asks for them.
    new: Option<Vec<New>>,
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
        beside: Vec<String>,
    },
    Changed {
        from: String,
        to: String,
    },
}

/// A key that is new, and its value.
#[derive(Debug)]
struct New {
    path: String,
    pattern: String,
    digest: u64,
    value: String,
}

impl Losses {
    /// What of the state `before` is lost in `after`. A key that has another name and the same value is no loss. Neither is a field
    /// without a value, nor another order of the lists at the places `arbitrary`.
    ///
    /// Keys that are new in `after` are no loss: these are fields that new code has added. But `misread` is `before` as its own code
    /// has read it and written it again. What is new in both, and the same, is a field that `before` leaves out, with another value.
    pub(super) fn between(
        before: &[u8],
        misread: Option<&[u8]>,
        after: &[u8],
        arbitrary: &HashSet<String>,
    ) -> Result<Self, FormatError> {
        let mut losses = Self {
            new: misread.map(|_| Vec::new()),
            ..Self::default()
        };
        if before == after || digest(before)? == digest(after)? {
            return Ok(losses);
        }
        let tree = Tree::read(before)?;
        let mut place = Place {
            tells: tells(before)?,
            ..Place::start(arbitrary)
        };
        losses.compare(&mut place, &tree, &Tree::read(after)?);
        if let Some(misread) = misread {
            let known = Self::new_in(&tree, &Tree::read(misread)?);
            let known: HashSet<_> = known.iter().map(|new| (&*new.path, new.digest)).collect();
            for new in losses.new.take().unwrap_or_default() {
                if known.contains(&(&*new.path, new.digest)) {
                    losses.is_misread = true;
                    let from = "left out".to_owned();
                    let how = How::Changed { from, to: new.value };
                    losses.add_at(new.pattern, shown_path(&new.path), how);
                }
            }
        }
        Ok(losses)
    }

    /// Whether `after` has keys that `before` leaves out.
    pub(super) fn has_new(before: &[u8], after: &[u8]) -> Result<bool, FormatError> {
        if before == after || digest(before)? == digest(after)? {
            return Ok(false);
        }
        Ok(!Self::new_in(&Tree::read(before)?, &Tree::read(after)?).is_empty())
    }

    fn new_in<'t>(before: &'t Tree<'t>, after: &'t Tree<'t>) -> Vec<New> {
        let mut losses = Self {
            new: Some(Vec::new()),
            ..Self::default()
        };
        losses.compare(&mut Place::start(&HashSet::new()), before, after);
        losses.new.unwrap_or_default()
    }

    /// Nothing is lost.
    pub(crate) fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    /// A key was dropped where another is new: it may have been renamed.
    pub(crate) fn looks_renamed(&self) -> bool {
        self.renamed.is_some()
    }

    /// A field is left out, and has another value when it is read again.
    pub(crate) fn is_misread(&self) -> bool {
        self.is_misread
    }

    /// The lists that come back in another order, though their types do not say that they have none.
    pub(super) fn reordered(&self) -> &HashSet<String> {
        &self.reordered
    }

    fn compare<'t>(&mut self, place: &mut Place<'_>, before: &'t Tree<'t>, after: &'t Tree<'t>) {
        if before.digests.ordered == after.digests.ordered {
            return;
        }
        let is_deep = place.depth.enter().is_err();
        match (&before.shape, &after.shape) {
            // Good enough: what is inside differs.
            _ if is_deep => self.add_changed(place, before, after),
            (Shape::Some(before), Shape::Some(after)) => self.compare(place, before, after),
            (
                Shape::Array { items, is_set },
                Shape::Array {
                    items: after,
                    is_set: to_set,
                },
            ) => {
                self.compare_items(place, (items, *is_set), (after, *to_set));
            }
            (Shape::Map { entries, is_data }, Shape::Map { entries: after, .. }) => {
                self.compare_entries(place, entries, *is_data, after);
            }
            (Shape::Array { items, .. }, Shape::Leaf(Item::Bytes(bytes))) if are_bytes(items, bytes) => {}
            _ => self.add_changed(place, before, after),
        }
        place.depth.leave(1);
    }

    /// Compares what is in both, then the others in pairs.
    fn compare_items<'t>(
        &mut self,
        place: &mut Place<'_>,
        (before, is_set): (&'t [Tree<'t>], bool),
        (after, to_set): (&'t [Tree<'t>], bool),
    ) {
        // What is a set by now was one before, unless that says otherwise.
        let is_set = is_set || (to_set && !place.tells);
        let mut same: HashMap<u64, VecDeque<usize>> = HashMap::new();
        for (at, item) in after.iter().enumerate() {
            same.entry(item.digests.unordered).or_default().push_back(at);
        }
        let (mut next, mut is_reordered) = (0, false);
        let mut alone = Vec::new();
        let mut others: Vec<_> = after.iter().map(Some).collect();
        for (index, item) in before.iter().enumerate() {
            match same.get_mut(&item.digests.unordered).and_then(VecDeque::pop_front) {
                Some(at) => {
                    is_reordered |= at < next;
                    next = at;
                    if let Some(other) = others[at].take() {
                        place.item(index, |place| self.compare(place, item, other));
                    }
                }
                None => alone.push((index, item)),
            }
        }
        if is_reordered && !is_set {
            self.add_reordered(place, before.len(), to_set);
        }
        let mut others: VecDeque<_> = others.into_iter().flatten().collect();
        for (index, item) in alone {
            // The items of a set may be anywhere.
            let is_searched = is_set && others.len() <= MOST_ITEMS;
            let at = others
                .iter()
                .position(|other| !is_searched || holds(place, item, other));
            let other = others.remove(at.unwrap_or(0));
            place.item(index, |place| match other {
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
        place: &mut Place<'_>,
        before: &'t [(Tree<'t>, Tree<'t>)],
        is_data: bool,
        after: &'t [(Tree<'t>, Tree<'t>)],
    ) {
        let mut new: HashMap<u64, Vec<&(Tree<'_>, Tree<'_>)>> = HashMap::new();
        for entry in after.iter().rev() {
            new.entry(entry.0.digests.unordered).or_default().push(entry);
        }
        let mut dropped = Vec::new();
        for (key, value) in before {
            match new.get_mut(&key.digests.unordered).and_then(Vec::pop) {
                Some((_, other)) => {
                    let name = name_of(key);
                    place.at(&format!(".{name}"), &format!(".{name}"), |place| {
                        self.compare(place, value, other);
                    });
                }
                None => dropped.push((key, value)),
            }
        }
        if dropped.is_empty() && self.new.is_none() {
            return;
        }
        // In the order of the fields.
        let left: HashSet<_> = new.into_values().flatten().map(std::ptr::from_ref).collect();
        let mut new: Vec<_> = after
            .iter()
            .filter(|entry| left.contains(&std::ptr::from_ref(*entry)))
            .collect();
        dropped.retain(|(_, value)| {
            // A name that nothing else holds: it holds all of this value, so this value has a new name.
            let few = new.len() <= MOST_PAIRS;
            let renamed = new.iter().position(|(_, other)| few && holds(place, value, other));
            let is_kept = renamed.map(|at| new.remove(at)).is_some();
            // `#[serde(skip_serializing_if = …)]` leaves out fields without a value. Where the keys are data, none may be missing.
            !is_kept && (is_data || !is_empty(value))
        });
        let beside: Vec<_> = new.iter().map(|(key, _)| name_of(key)).take(MOST_NAMED).collect();
        for (key, value) in dropped {
            let key = name_of(key);
            if let Some(other) = beside.first().filter(|_| !is_empty(value)) {
                self.renamed.get_or_insert_with(|| (key.clone(), other.clone()));
            }
            let how = How::Dropped { beside: beside.clone() };
            place.at(&format!(".{key}"), &format!(".{key}"), |place| self.add(place, how));
        }
        for (key, value) in new {
            let key = format!(".{}", name_of(key));
            place.at(&key, &key, |place| self.add_new(place, value));
        }
    }

    fn add_new(&mut self, place: &Place<'_>, value: &Tree<'_>) {
        if let Some(new) = &mut self.new {
            new.push(New {
                path: place.path.clone(),
                pattern: place.pattern.clone(),
                digest: value.digests.unordered,
                value: shown(value),
            });
        }
    }

    fn add_reordered(&mut self, place: &Place<'_>, items: usize, to_set: bool) {
        if !to_set {
            if place.arbitrary.contains(&place.pattern) {
                return;
            }
            self.reordered.insert(place.pattern.clone());
        }
        let how = How::Changed {
            from: format!("{items} items"),
            to: "another order".to_owned(),
        };
        self.add(place, how);
    }

    fn add_changed(&mut self, place: &Place<'_>, before: &Tree<'_>, after: &Tree<'_>) {
        let how = How::Changed {
            from: shown(before),
            to: shown(after),
        };
        self.add(place, how);
    }

    fn add(&mut self, place: &Place<'_>, how: How) {
        self.add_at(place.pattern.clone(), shown_path(&place.path), how);
    }

    /// Limits what is named. What is decided must not depend on it.
    fn add_at(&mut self, pattern: String, place: String, how: How) {
        self.is_changed |= matches!(how, How::Changed { .. });
        if !self.places.insert(pattern) {
            return;
        }
        if self.lost.len() == MOST_NAMED {
            self.more += 1;
            return;
        }
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
        match &self.renamed {
            Some((old, new)) => format!(
                "if `{new}` is another name for `{old}`, write `#[serde(alias = \"{old}\")]` on it; otherwise {raise}, and write a \
                 `{by}` that reads the old state"
            ),
            None if self.is_misread => {
                "a field that `skip_serializing_if` leaves out must have that value as its default; \
                 or write it always"
                    .to_owned()
            }
            None if !self.is_changed => format!("if that may be lost, {raise}"),
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
fn holds<'t>(place: &Place<'_>, before: &'t Tree<'t>, after: &'t Tree<'t>) -> bool {
    let mut losses = Losses::default();
    let mut inside = Place {
        depth: place.depth.clone(),
        tells: place.tells,
        ..Place::start(place.arbitrary)
    };
    losses.compare(&mut inside, before, after);
    losses.is_empty()
}

/// Whether there is nothing in it. `#[serde(skip_serializing_if = …)]` leaves such values out.
fn is_empty(value: &Tree<'_>) -> bool {
    match &value.shape {
        Shape::Leaf(leaf) => matches!(leaf, Item::Nil),
        Shape::Some(_) => false,
        Shape::Array { items, .. } => items.is_empty(),
        Shape::Map { entries, .. } => entries.is_empty(),
    }
}

/// Whether the items are these bytes, one by one. So a `Vec<u8>` may become `serde_bytes`.
fn are_bytes(items: &[Tree<'_>], bytes: &[u8]) -> bool {
    let byte = |item: &Tree<'_>| match item.shape {
        Shape::Leaf(Item::Unsigned(byte)) => Some(byte),
        _ => None,
    };
    items
        .iter()
        .map(byte)
        .eq(bytes.iter().map(|&byte| Some(u64::from(byte))))
}

/// Where a value stands.
struct Place<'a> {
    /// Where the order of a list does not count.
    arbitrary: &'a HashSet<String>,
    /// The headers of `before` tell sets from lists. Those of earlier versions of this crate do not.
    tells: bool,
    depth: Depth,
    path: String,
    /// The same, without positions in arrays.
    pattern: String,
}

impl<'a> Place<'a> {
    fn start(arbitrary: &'a HashSet<String>) -> Self {
        Self {
            arbitrary,
            tells: true,
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

    fn item(&mut self, index: usize, look: impl FnOnce(&mut Self)) {
        self.at(&format!("[{index}]"), "[]", look);
    }
}

fn shown_path(path: &str) -> String {
    match path.strip_prefix('.').unwrap_or(path) {
        "" => "the value itself".to_owned(),
        path => format!("`{path}`"),
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
        Shape::Array { items, .. } => format!("{} items", items.len()),
        Shape::Map { entries, .. } => format!("{} entries", entries.len()),
    }
}
