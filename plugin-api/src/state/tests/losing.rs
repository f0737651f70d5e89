//! What counts as a loss when state is read and written again, and what does not.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Inside, Of, Outside, carried, lost, written};
use crate::state::{Headers, losses, note_misread, read, write};

/// What is lost if `before` is read as a `T`.
#[track_caller]
fn lost_as<T: Serialize + DeserializeOwned>(before: &impl Serialize) -> String {
    let bytes = written(before);
    lost(&bytes, &read::<T>(&bytes).expect("it can be read"))
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Counter {
    count: u32,
}

#[test]
fn a_field_with_another_name_is_lost() {
    #[derive(Serialize, Deserialize, Default)]
    #[serde(default)]
    struct Renamed {
        total: u32,
    }
    let counter = Counter { count: 5 };
    assert_eq!(
        lost_as::<Renamed>(&counter),
        "`count`: dropped, while `total` has its default"
    );
    let nested = json!({ "rooms": [{ "count": 5 }, { "count": 6 }] });
    assert_eq!(
        lost_as::<BTreeMap<String, Vec<Renamed>>>(&nested),
        "`rooms[0].count`: dropped, while `total` has its default"
    );
}

#[test]
fn a_field_with_an_alias_is_kept() {
    #[derive(Serialize, Deserialize)]
    struct Renamed {
        #[serde(alias = "count")]
        total: u32,
        #[serde(default)]
        new: bool,
    }
    assert_eq!(lost_as::<Renamed>(&Counter { count: 5 }), "");
}

#[test]
fn a_new_field_is_no_loss() {
    #[derive(Serialize, Deserialize)]
    struct More {
        count: u32,
        #[serde(default)]
        new: Vec<u32>,
    }
    assert_eq!(lost_as::<More>(&Counter { count: 5 }), "");
}

#[test]
fn a_field_that_is_not_written_again_is_lost_unless_it_is_empty() {
    #[derive(Serialize, Deserialize)]
    struct None {}
    assert_eq!(lost_as::<None>(&Counter { count: 5 }), "`count`: dropped");
    #[derive(Serialize)]
    struct Empty {
        a: Option<u8>,
        b: Vec<u8>,
        c: BTreeMap<u8, u8>,
    }
    let empty = Empty {
        a: Option::None,
        b: Vec::new(),
        c: BTreeMap::new(),
    };
    assert_eq!(lost_as::<None>(&empty), "");
}

#[test]
fn a_value_that_changes_is_lost() {
    #[derive(Serialize, Deserialize)]
    struct Reset {
        #[serde(skip_deserializing)]
        count: u32,
    }
    assert_eq!(lost_as::<Reset>(&Counter { count: 5 }), "`count`: 5 → 0");

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Alike {
        Short { name: String },
        Long { name: String, since: u32 },
    }
    let long = Alike::Long {
        name: "ann".to_owned(),
        since: 3,
    };
    assert_eq!(lost_as::<Alike>(&long), "`since`: dropped");
    assert_eq!(lost_as::<f32>(&0.1_f64), "the value itself: 0.1 → 0.1");
    #[derive(Serialize, Deserialize)]
    enum Mood {
        Good,
        #[serde(other)]
        Unknown,
    }
    assert_eq!(lost_as::<Mood>(&Mood::Good), "");
    assert_eq!(
        lost_as::<Mood>(&"Bad"),
        "the value itself: a text of 3 bytes → a text of 7 bytes"
    );
}

#[test]
fn another_type_for_the_same_value_is_no_loss() {
    assert_eq!(lost_as::<u64>(&7_u8), "");
    assert_eq!(lost_as::<f64>(&7_u8), "");
    assert_eq!(lost_as::<f64>(&0.1_f32), "");
    assert_eq!(lost_as::<HashSet<u8>>(&vec![1, 1]), "`[1]`: 1 → nothing");
    assert_eq!(lost_as::<Option<u8>>(&1), "");
}

#[test]
fn an_integer_of_any_width_may_become_a_wider_one() {
    assert_eq!(lost_as::<u128>(&u64::MAX), "");
    assert_eq!(lost_as::<i128>(&u64::MAX), "");
    assert_eq!(lost_as::<i128>(&-5_i64), "");
    assert_eq!(lost_as::<Vec<Option<u128>>>(&vec![Some(1_u8), None]), "");
    assert_eq!(lost_as::<HashSet<u128>>(&HashSet::from([1_u32, 2, 3])), "");
    assert_eq!(lost_as::<u64>(&7_u128), "");
    assert_eq!(lost_as::<i128>(&u128::MAX), "the value itself: 16 bytes → -1");
    assert_eq!(lost_as::<serde_bytes::ByteBuf>(&vec![1_u8, 255]), "");
}

/// 300 numbers in an order that no type makes by itself.
fn numbers() -> Vec<u32> {
    (0..300).map(|number| number * 7_919 % 300).collect()
}

#[test]
fn the_order_of_a_list_counts() {
    /// With a text in it: it says that a list is no set.
    fn listed<T>(list: T) -> BTreeMap<String, T> {
        BTreeMap::from([("list".to_owned(), list)])
    }
    type Listed<T> = BTreeMap<String, T>;
    let few = vec![3, 1, 2];
    for list in [few, numbers()] {
        let another = format!("`list`: {} items → another order", list.len());
        let list = listed(list);
        assert_eq!(lost_as::<Listed<Vec<u32>>>(&list), "");
        assert_eq!(lost_as::<Listed<std::collections::VecDeque<u32>>>(&list), "");
        assert_eq!(lost_as::<Listed<BTreeSet<u32>>>(&list), another);
    }
    let list = listed(numbers());
    assert!(lost_as::<Listed<HashSet<u32>>>(&list).ends_with("another order"));
    assert!(lost_as::<Listed<BinaryHeap<u32>>>(&list).ends_with("another order"));
    let nested = BTreeMap::from([("games", [["c", "a"], ["a", "b"]])]);
    assert_eq!(
        lost_as::<BTreeMap<String, Vec<BTreeSet<String>>>>(&nested),
        "`games[0]`: 2 items → another order"
    );
    #[derive(Serialize, Deserialize)]
    struct Sorted(#[serde(deserialize_with = "sorted")] Vec<u32>);
    fn sorted<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
        let mut list = Vec::deserialize(from)?;
        list.sort_unstable();
        Ok(list)
    }
    assert!(lost_as::<Sorted>(&numbers()).ends_with("another order"));
}

#[test]
fn a_set_may_come_back_in_any_order() {
    type Fixed = HashSet<u32, std::hash::BuildHasherDefault<std::hash::DefaultHasher>>;
    /// serde shows only the name of this type.
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(transparent)]
    struct Hidden(HashSet<u32>);

    for count in [2, 10, 300] {
        let set: HashSet<u32> = (0..count).collect();
        let mut grown = Fixed::default();
        grown.extend(0..count * 3);
        grown.retain(|number| *number < count);
        assert_eq!(lost_as::<HashSet<u32>>(&set), "");
        assert_eq!(lost_as::<BTreeSet<u32>>(&set), "");
        assert_eq!(lost_as::<Vec<u32>>(&set), "");
        assert_eq!(lost_as::<Fixed>(&grown), "");
        assert_eq!(lost_as::<Hidden>(&Hidden(set.clone())), "");
        assert_eq!(
            lost_as::<Vec<Hidden>>(&vec![Hidden(set.clone()), Hidden(HashSet::new())]),
            ""
        );
        assert_eq!(lost_as::<Option<Box<HashSet<u32>>>>(&Some(Box::new(set.clone()))), "");
        let more = set
            .iter()
            .map(|number| (*number, Hidden(set.clone())))
            .collect::<HashMap<_, _>>();
        assert_eq!(lost_as::<HashMap<u32, Hidden>>(&more), "");
        carried(BTreeSet::from_iter(set));
    }
    let set: HashSet<u32> = (0..300).collect();
    assert_eq!(lost_as::<HashSet<u16>>(&set), "");
    assert!(lost(&written(&set), &HashSet::from([1_u32])).contains("→ nothing"));
}

#[test]
fn an_item_of_a_set_may_get_a_new_field() {
    #[derive(Serialize, Deserialize, PartialEq, Eq, Hash)]
    struct Item {
        id: u32,
    }
    #[derive(Serialize, Deserialize, PartialEq, Eq, Hash)]
    struct More {
        id: u32,
        #[serde(default)]
        new: bool,
    }
    let set: HashSet<_> = (0..20).map(|id| Item { id }).collect();
    assert_eq!(lost_as::<HashSet<More>>(&set), "");
}

#[test]
fn an_entry_of_a_map_counts_whatever_its_value() {
    #[derive(Serialize, Deserialize)]
    struct Ann<T> {
        ann: T,
    }
    fn both<T: Clone>(value: T) -> BTreeMap<&'static str, T> {
        BTreeMap::from([("ann", value.clone()), ("bob", value)])
    }
    assert_eq!(lost_as::<Ann<Option<u32>>>(&both(None::<u32>)), "`bob`: dropped");
    assert_eq!(lost_as::<Ann<()>>(&both(())), "`bob`: dropped");
    assert_eq!(lost_as::<Ann<Vec<u32>>>(&both(Vec::<u32>::new())), "`bob`: dropped");
    assert_eq!(
        lost_as::<Ann<Value>>(&json!({ "ann": {}, "bob": {} })),
        "`bob`: dropped"
    );
    let many: BTreeMap<_, _> = (0..20).map(|key| (format!("k{key}"), ())).collect();
    assert!(lost_as::<Nothing>(&many).ends_with("15 more"));
    #[derive(Serialize, Deserialize)]
    struct Nothing {}
    #[derive(Serialize)]
    enum Mode {
        Locked {},
    }
    assert_eq!(lost_as::<Nothing>(&Mode::Locked {}), "`Locked`: dropped");
}

/// What is lost if a value is read by its own type, as its writer notes it.
#[track_caller]
fn lost_again<T: Serialize + DeserializeOwned>(value: &T) -> String {
    let bytes = noted(value);
    lost(&bytes, &read::<T>(&bytes).expect("it can be read"))
}

#[track_caller]
fn noted<T: Serialize + DeserializeOwned>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(
        write(value, Headers::Telling, &mut bytes).expect("it can be written"),
        "nothing is left out"
    );
    let again: T = read(&bytes).expect("it can be read");
    note_misread(&mut bytes, &again).expect("it can be written");
    bytes
}

fn ten() -> u32 {
    10
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct Limit {
    #[serde(default = "ten", skip_serializing_if = "is_zero")]
    limit: u32,
}

#[test]
fn a_field_that_is_left_out_and_has_another_default_is_lost() {
    assert_eq!(lost_again(&Limit { limit: 0 }), "`limit`: left out → 10");
    assert_eq!(lost_again(&Of(Limit { limit: 0 })), "`limit`: left out → 10");
    assert_eq!(
        lost_again(&vec![Limit { limit: 3 }, Limit { limit: 0 }]),
        "`[1].limit`: left out → 10"
    );
    assert_eq!(
        lost_again(&Outside::Fields {
            value: Limit { limit: 0 }
        }),
        "`Fields.value.limit`: left out → 10"
    );
    assert_eq!(
        lost_again(&Inside::Fields {
            value: Limit { limit: 0 }
        }),
        "`value.limit`: left out → 10"
    );
    #[derive(Serialize, Deserialize)]
    struct Flattened {
        id: u32,
        #[serde(flatten)]
        rest: Limit,
    }
    let rest = Limit { limit: 0 };
    assert_eq!(lost_again(&Flattened { id: 1, rest }), "`limit`: left out → 10");
}

#[test]
fn a_field_that_is_left_out_may_have_that_value_as_its_default() {
    #[derive(Serialize, Deserialize)]
    struct Good {
        #[serde(default, skip_serializing_if = "is_zero")]
        limit: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        maybe: Option<u32>,
    }
    let good = Good { limit: 0, maybe: None };
    assert_eq!(lost_again(&good), "");
    assert_eq!(noted(&good), written(&good));
    // Code that reads the right value is fine, and so is a field that only that code has.
    #[derive(Serialize, Deserialize)]
    struct Fixed {
        #[serde(default)]
        limit: u32,
        #[serde(default)]
        new: bool,
    }
    let bytes = noted(&Limit { limit: 0 });
    assert_eq!(lost(&bytes, &read::<Fixed>(&bytes).unwrap()), "");
}

#[test]
fn what_is_decided_does_not_depend_on_how_much_is_named() {
    let before = json!({
        "a": { "x": 1 }, "b": { "x": 1 }, "c": { "x": 1 }, "d": { "x": 1 }, "e": { "x": 1 },
        "money": { "count": 5 },
        "list": [{ "x": 1 }, { "x": 1, "y": 2 }],
    });
    let of = |change: fn(&mut Value)| {
        let mut after = before.clone();
        ["a", "b", "c", "d", "e"].iter().for_each(|key| after[*key] = json!({}));
        change(&mut after);
        losses(&written(&before), &after, || None).unwrap()
    };
    assert!(!of(|_| {}).looks_renamed());
    assert!(of(|after| after["money"] = json!({ "total": 0 })).looks_renamed());
    // The same place, once removed and once renamed.
    let items = of(|after| after["list"] = json!([{}, { "z": 0, "y": 2 }]));
    assert!(items.looks_renamed());
    let changed = of(|after| after["money"] = json!({ "count": 6 }));
    assert!(!changed.remedy(1, 1, "migrate").contains("if that may be lost"));
}

#[test]
fn few_losses_are_named_and_each_place_once() {
    #[derive(Serialize, Deserialize)]
    struct None {}
    let many: HashMap<String, u32> = (0..9).map(|key| (format!("k{key}"), key)).collect();
    let named = lost_as::<None>(&many);
    assert_eq!(named.matches("dropped").count(), 5);
    assert!(named.ends_with(", 4 more"), "{named}");
    let alike: Vec<_> = (1..9).map(|count| Counter { count }).collect();
    assert_eq!(lost_as::<Vec<None>>(&alike), "`[0].count`: dropped");
}

/// `rmp-serde` writes the headers that earlier versions of this crate wrote.
#[test]
fn a_set_that_an_earlier_kit_wrote_may_have_any_order() {
    #[derive(Serialize, Deserialize)]
    struct Tagged {
        tags: HashSet<u32>,
    }
    #[derive(Serialize)]
    struct Listed {
        tags: Vec<u32>,
    }
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
        let listed = Listed { tags: order.to_vec() };
        let old = rmp_serde::to_vec_named(&listed).expect("it can be written");
        let read: Tagged = read(&old).expect("it can be read");
        assert_eq!(lost(&old, &read), "", "{order:?}");
    }
    // What this kit has written says that it was a list.
    #[derive(Serialize, Deserialize)]
    struct Sorted {
        tags: BTreeSet<u32>,
    }
    let listed = Listed { tags: vec![3, 2, 1] };
    assert_eq!(lost_as::<Sorted>(&listed), "`tags`: 3 items → another order");
}
