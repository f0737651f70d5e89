//! Which values state carries, and what is said of those that it cannot carry.

mod losing;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Headers, losses, read, write};

fn written<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, Headers::Telling, &mut bytes).expect("it can be written");
    bytes
}

/// The value comes back as it was.
#[track_caller]
fn carried<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    let bytes = written(&value);
    let back: T = read(&bytes).expect("it can be read");
    assert_eq!(back, value);
    assert_eq!(lost(&bytes, &back), "");
    // What earlier versions wrote is read as well, and rewritten in another form where there are two.
    let compact = rmp_serde::to_vec_named(&value).expect("it can be written");
    if let Ok(plain) = rmp_serde::from_slice::<T>(&compact)
        && plain == value
    {
        assert_eq!(read::<T>(&compact).expect("it can be read"), value);
        assert_eq!(lost(&compact, &value), "");
    }
}

/// What is lost if `state` was read from `bytes`.
#[track_caller]
fn lost<T: Serialize + DeserializeOwned>(bytes: &[u8], state: &T) -> String {
    losses(bytes, state, || read(bytes).ok())
        .expect("it can be compared")
        .shown()
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Unit;

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Of<T>(T);

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Outside<T> {
    Unit,
    Of(T),
    Two(T, u8),
    Fields { value: T },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "kind")]
enum Inside<T> {
    Unit,
    Fields { value: T },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
#[serde(tag = "kind", content = "content")]
enum Beside<T> {
    Unit,
    Of(T),
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Flat<T> {
    id: u32,
    #[serde(flatten)]
    rest: Rest<T>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Rest<T> {
    value: T,
}

/// The value comes back from wherever it is kept.
#[track_caller]
fn carried_anywhere<T: Serialize + DeserializeOwned + PartialEq + Debug + Clone>(value: T) {
    carried(value.clone());
    carried(Some(value.clone()));
    carried(Some(Some(value.clone())));
    carried(vec![value.clone()]);
    carried((1, value.clone()));
    carried(
        BTreeMap::from([("key", value.clone())])
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<BTreeMap<_, _>>(),
    );
    carried(Of(value.clone()));
    carried(Outside::Of(value.clone()));
    carried(Outside::Two(value.clone(), 1));
    carried(Outside::Fields { value: value.clone() });
    carried(Inside::Fields { value: value.clone() });
    carried(Beside::Of(value.clone()));
    carried(Flat {
        id: 1,
        rest: Rest { value },
    });
}

#[test]
fn common_types_are_carried_wherever_they_are_kept() {
    carried_anywhere(true);
    carried_anywhere(-1_i8);
    carried_anywhere(i64::MIN);
    carried_anywhere(u64::MAX);
    carried_anywhere(f32::MIN_POSITIVE);
    carried_anywhere(f64::INFINITY);
    carried_anywhere('ß');
    carried_anywhere("text".to_owned());
    carried_anywhere(());
    carried_anywhere(vec![1_u8, 2]);
    carried_anywhere([1_u8; 3]);
    carried_anywhere(serde_bytes::ByteBuf::from([0, 255]));
    carried_anywhere(BTreeMap::from([((1, -1), "tuple keys".to_owned())]));
    carried_anywhere(HashSet::from([1, 2, 3]));
    carried_anywhere(Duration::from_nanos(1));
    carried_anywhere(json!({ "a": [null, 1, "b"] }));
    carried(Unit);
    carried(Some(Unit));
    carried(Outside::<u8>::Unit);
    carried(Inside::<u8>::Unit);
    carried(Beside::<u8>::Unit);
}

#[test]
fn nested_options_are_carried() {
    carried_anywhere(None::<u8>);
    carried_anywhere(Some(None::<u8>));
    carried_anywhere(None::<Option<u8>>);
    carried_anywhere(Some(Some(None::<u8>)));
    carried_anywhere(Some(()));
    carried_anywhere(None::<()>);
    carried_anywhere(Some(Value::Null));
}

#[test]
fn addresses_and_times_are_carried() {
    carried_anywhere("127.0.0.1".parse::<IpAddr>().unwrap());
    carried_anywhere("[::1]:80".parse::<SocketAddr>().unwrap());
    carried_anywhere(SystemTime::UNIX_EPOCH + Duration::from_secs(1));
}

#[test]
fn long_integers_are_carried() {
    carried(u128::MAX);
    carried(i128::MIN);
    carried(vec![Some(1_u128)]);
    carried(Outside::Fields { value: u128::MAX });
    carried(Beside::Of(7_i128));
}

#[test]
fn raw_json_is_carried() {
    let raw = serde_json::value::RawValue::from_string(r#"{"a" : 1}"#.to_owned()).unwrap();
    let bytes = written(&raw);
    assert_eq!(
        read::<Box<serde_json::value::RawValue>>(&bytes).unwrap().get(),
        raw.get()
    );
}

/// serde itself keeps these types in a form that has no place for such values.
#[test]
fn what_serde_cannot_read_is_an_error_with_its_place() {
    #[track_caller]
    fn check<T: Serialize + DeserializeOwned>(value: T, why: &str) {
        let error = read::<T>(&written(&value)).err().expect("it cannot be read");
        assert!(error.to_string().contains(why), "{error}");
    }
    check(Inside::Fields { value: 1_u128 }, "128");
    check(
        Flat {
            id: 1,
            rest: Rest { value: i128::MIN },
        },
        "128",
    );
    let raw = || serde_json::value::RawValue::from_string("1".to_owned()).unwrap();
    check(Inside::Fields { value: raw() }, "value");
}

#[derive(Serialize, Deserialize)]
struct Node {
    next: Option<Box<Node>>,
}

impl Node {
    fn nested(levels: u32) -> Self {
        (1..levels).fold(Self { next: None }, |next, _| Self {
            next: Some(next.into()),
        })
    }

    /// Without recursion: so deep a value would not fit on the stack either.
    fn end(mut self) {
        while let Some(next) = self.next.take() {
            self = *next;
        }
    }
}

#[test]
fn what_is_nested_too_deep_is_an_error_and_all_that_is_written_can_be_read() {
    // The stack of a shard.
    let shard = std::thread::Builder::new().stack_size(2 << 20);
    let work = || {
        let most = super::format::MOST_LEVELS / 2;
        let deepest = Node::nested(most);
        let bytes = written(&deepest);
        let back: Node = read(&bytes).expect("it can be read");
        assert_eq!(lost(&bytes, &back), "");
        // Another comparison than that of bytes.
        let dropped = lost(&bytes, &Node::nested(most - 1));
        assert!(dropped.contains("→ nothing"), "{dropped}");
        for levels in [most + 1, 100_000] {
            let node = Node::nested(levels);
            let error = write(&node, Headers::Telling, &mut Vec::new())
                .expect_err("too deep")
                .to_string();
            assert_eq!(error, "it is nested too deep: more than 1024 levels");
            node.end();
        }
    };
    shard.spawn(work).unwrap().join().unwrap();
}

#[test]
fn nesting_without_end_in_bytes_is_an_error() {
    let bytes = vec![0x91; 100_000];
    let error = read::<Value>(&bytes).unwrap_err().to_string();
    assert!(error.contains("it is nested too deep"), "{error}");
}

#[test]
fn what_would_not_fit_on_the_stack_of_a_shard_is_an_error() {
    /// Takes some kilobytes of the stack for each level.
    struct Wide(u32);

    impl Serialize for Wide {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let mut local = [0_u8; 8 << 10];
            std::hint::black_box(&mut local);
            let done = match self.0 {
                0 => to.serialize_none(),
                level => to.serialize_some(&Self(level - 1)),
            };
            std::hint::black_box(&mut local);
            done
        }
    }

    let shard = std::thread::Builder::new().stack_size(2 << 20);
    let work = || {
        write(&Wide(10), Headers::Telling, &mut Vec::new()).expect("there is room for this");
        let error = write(&Wide(1_000), Headers::Telling, &mut Vec::new())
            .expect_err("too deep")
            .to_string();
        assert!(
            error.ends_with("levels take more than 1572864 bytes of the stack"),
            "{error}"
        );
    };
    shard.spawn(work).unwrap().join().unwrap();
}

#[test]
fn bytes_that_are_no_state_are_errors() {
    for bytes in [
        &b""[..],
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xa5abc",
        b"\xc0\xc0",
        b"\xd4\x01\x00",
    ] {
        read::<Value>(bytes).expect_err("no state");
    }
}

/// Any value of the shapes that serde knows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
enum Any {
    Nothing,
    Unit(()),
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Long(i128),
    Float(u64),
    Text(String),
    Bytes(serde_bytes::ByteBuf),
    Maybe(Option<Box<Any>>),
    MaybeMaybe(Option<Option<Box<Any>>>),
    List(Vec<Any>),
    Pairs(Vec<(Any, Any)>),
    Map(BTreeMap<String, Any>),
    Fields { left: Box<Any>, right: Option<Box<Any>> },
}

fn any() -> impl Strategy<Value = Any> {
    let leaf = prop_oneof![
        Just(Any::Nothing),
        Just(Any::Unit(())),
        Just(Any::Maybe(None)),
        Just(Any::MaybeMaybe(None)),
        Just(Any::MaybeMaybe(Some(None))),
        proptest::bool::ANY.prop_map(Any::Bool),
        proptest::num::i64::ANY.prop_map(Any::Signed),
        proptest::num::u64::ANY.prop_map(Any::Unsigned),
        proptest::num::i128::ANY.prop_map(Any::Long),
        ".*".prop_map(Any::Text),
        proptest::collection::vec(proptest::num::u8::ANY, 0..300).prop_map(|bytes| Any::Bytes(bytes.into())),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            inner.clone().prop_map(|value| Any::Maybe(Some(value.into()))),
            inner
                .clone()
                .prop_map(|value| Any::MaybeMaybe(Some(Some(value.into())))),
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Any::List),
            proptest::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(Any::Pairs),
            proptest::collection::btree_map(".{0,4}", inner.clone(), 0..20).prop_map(Any::Map),
            (inner.clone(), proptest::option::of(inner)).prop_map(|(left, right)| Any::Fields {
                left: left.into(),
                right: right.map(Into::into),
            }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_again(value in any()) {
        carried(value.clone());
        carried(Flat { id: 1, rest: Rest { value: vec![Some(Some(()))] } });
    }
}
