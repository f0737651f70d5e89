use serde_json::Value;

use super::*;

const ANN: MemberId = MemberId::new(0, 1, 1);
const BOB: MemberId = MemberId::new(0, 2, 2);

fn key(text: &str) -> ByteString {
    ByteString::from(text)
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("valid JSON")
}

/// What the diff says that is due now.
fn diff(presence: &mut Presence) -> Value {
    match presence.flush(Instant::now(), Duration::ZERO) {
        Flush::Diff(diff) => json(&diff),
        other => panic!("no diff: {other:?}"),
    }
}

#[test]
fn a_tracked_member_is_in_the_state_and_once_in_a_diff() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("ann"), br#" { "st": "on" } "#).unwrap();
    let state = json(&presence.state());
    let meta = &state["ann"]["metas"][0];
    assert_eq!(meta["st"], "on");
    assert_eq!(meta["phx_ref"].as_str().unwrap().len(), 16);
    let said = diff(&mut presence);
    assert_eq!(said["joins"], state);
    assert_eq!(said["leaves"], serde_json::json!({}));
    assert_eq!(presence.flush(Instant::now(), Duration::ZERO), Flush::Nothing);
}

#[test]
fn an_update_is_one_diff_with_the_key_on_both_sides() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("ann"), b"{}").unwrap();
    let before = diff(&mut presence)["joins"]["ann"]["metas"][0]["phx_ref"].clone();
    presence.update(ANN, &key("ann"), br#"{"st":"away"}"#).unwrap();
    let said = diff(&mut presence);
    let (new, old) = (&said["joins"]["ann"]["metas"][0], &said["leaves"]["ann"]["metas"][0]);
    assert_eq!(new["phx_ref_prev"], before);
    assert_eq!(old["phx_ref"], before);
    assert_ne!(new["phx_ref"], before);
}

#[test]
fn two_devices_of_one_user_are_two_metas_oldest_first() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
    presence.track(BOB, &key("u"), br#"{"n":2}"#).unwrap();
    assert_eq!(presence.track(ANN, &key("u"), b"{}"), Err(PresenceError::Tracked));
    let state = json(&presence.state());
    assert_eq!(state["u"]["metas"][0]["n"], 1);
    assert_eq!(state["u"]["metas"][1]["n"], 2);
    presence.leave(ANN);
    assert_eq!(json(&presence.state())["u"]["metas"].as_array().unwrap().len(), 1);
    presence.leave(BOB);
    assert_eq!(&presence.state()[..], b"{}");
}

#[test]
fn whoever_is_not_tracked_can_be_neither_updated_nor_untracked() {
    let mut presence = Presence::default();
    assert_eq!(presence.update(ANN, &key("ann"), b"{}"), Err(PresenceError::Untracked));
    assert_eq!(presence.untrack(ANN, &key("ann")), Err(PresenceError::Untracked));
    presence.track(BOB, &key("ann"), b"{}").unwrap();
    assert_eq!(
        presence.untrack(ANN, &key("ann")),
        Err(PresenceError::Untracked),
        "somebody else's"
    );
    assert_eq!(presence.untrack(BOB, &key("ann")), Ok(()));
    assert_eq!(
        presence.untrack(BOB, &key("ann")),
        Err(PresenceError::Untracked),
        "no more"
    );
    presence.roll_back();
    assert_eq!(presence.flush(Instant::now(), Duration::ZERO), Flush::Nothing);
}

#[test]
fn what_a_failed_event_did_is_taken_back() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
    presence.track(BOB, &key("u"), br#"{"n":2}"#).unwrap();
    presence.commit();
    diff(&mut presence);
    let before = presence.state();
    presence.track(ANN, &key("other"), b"{}").unwrap();
    presence.update(BOB, &key("u"), b"{}").unwrap();
    presence.untrack(ANN, &key("u")).unwrap();
    presence.untrack(BOB, &key("u")).unwrap();
    presence.roll_back();
    assert_eq!(presence.state(), before);
    assert_eq!(presence.flush(Instant::now(), Duration::ZERO), Flush::Nothing);
    presence.leave(ANN);
    presence.leave(BOB);
    assert_eq!(&presence.state()[..], b"{}");
}

#[test]
fn keys_are_escaped_and_prototypes_are_only_keys() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("__proto__"), b"{}").unwrap();
    presence.track(ANN, &key("a\"b"), b"{}").unwrap();
    let state = json(&presence.state());
    assert!(state.get("__proto__").is_some() && state.get("a\"b").is_some());
}

#[test]
fn what_describes_a_key_stands_beside_its_metas_until_the_last_one_is_gone() {
    let mut presence = Presence::default();
    assert_eq!(
        presence.describe(&key("u"), br#"{"user":1}"#),
        Err(PresenceError::Untracked)
    );
    presence.track(ANN, &key("u"), b"{}").unwrap();
    presence
        .describe(&key("u"), br#" { "user": {"name":"Ann"}, "n": [1] } "#)
        .unwrap();
    presence.track(BOB, &key("v"), b"{}").unwrap();
    let ann = serde_json::json!({ "name": "Ann" });
    let state = json(&presence.state());
    assert_eq!((&state["u"]["user"], &state["u"]["n"][0]), (&ann, &Value::from(1)));
    assert_eq!(state["v"].as_object().unwrap().len(), 1, "others are not described");
    assert_eq!(json(&presence.get_by_key("u").unwrap()), state["u"]);
    assert_eq!(diff(&mut presence)["joins"], state);
    presence.update(ANN, &key("u"), br#"{"st":"away"}"#).unwrap();
    let updated = diff(&mut presence);
    assert_eq!(
        (&updated["joins"]["u"]["user"], &updated["leaves"]["u"]["user"]),
        (&ann, &ann)
    );
    presence.leave(ANN);
    assert_eq!(diff(&mut presence)["leaves"]["u"]["user"], ann);
    assert_eq!(presence.get_by_key("u"), None);
    presence.track(BOB, &key("u"), b"{}").unwrap();
    assert_eq!(diff(&mut presence)["joins"]["u"]["user"], Value::Null);
}

#[test]
fn a_key_that_goes_and_comes_back_in_one_diff_is_described_as_it_was_on_either_side() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), b"{}").unwrap();
    presence.describe(&key("u"), br#"{"n":1}"#).unwrap();
    diff(&mut presence);
    presence.leave(ANN);
    presence.track(BOB, &key("u"), b"{}").unwrap();
    presence.describe(&key("u"), br#"{"n":2}"#).unwrap();
    let said = diff(&mut presence);
    assert_eq!(
        (&said["joins"]["u"]["n"], &said["leaves"]["u"]["n"]),
        (&Value::from(2), &Value::from(1))
    );
}

#[test]
fn what_a_failed_event_described_is_taken_back() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), b"{}").unwrap();
    presence.describe(&key("u"), br#"{"n":1}"#).unwrap();
    presence.commit();
    diff(&mut presence);
    let before = presence.state();
    presence.describe(&key("u"), br#"{"n":2}"#).unwrap();
    presence.untrack(ANN, &key("u")).unwrap();
    presence.roll_back();
    assert_eq!(presence.state(), before);
    assert_eq!(presence.flush(Instant::now(), Duration::ZERO), Flush::Nothing);
}

#[test]
fn a_storm_of_joins_is_as_many_diffs_as_it_takes_intervals() {
    const INTERVAL: Duration = Duration::from_millis(100);
    let (mut presence, start) = (Presence::default(), Instant::now());
    let (mut diffs, mut told, mut joins) = (0, 0, 0);
    for n in 0..1_000 {
        let member = MemberId::new(0, n, n);
        presence.track(member, &key(&n.to_string()), b"{}").unwrap();
        presence.commit();
        // A join each millisecond, each in a batch of its own.
        match presence.flush(start + Duration::from_millis(n.into()), INTERVAL) {
            Flush::Nothing => {}
            Flush::After(wait) => {
                assert!(wait <= INTERVAL);
                told += 1;
            }
            Flush::Diff(diff) => {
                diffs += 1;
                joins += json(&diff)["joins"].as_object().unwrap().len();
            }
        }
    }
    assert_eq!(
        (diffs, told, joins),
        (10, 10, 901),
        "the first at once, then one in 100 ms"
    );
    match presence.flush(start + Duration::from_millis(1_000), INTERVAL) {
        Flush::Diff(diff) => assert_eq!(json(&diff)["joins"].as_object().unwrap().len(), 99),
        other => panic!("the rest is owed: {other:?}"),
    }
}

#[test]
fn of_many_changes_between_two_diffs_only_the_outcome_is_kept_and_said() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), br#"{"n":0}"#).unwrap();
    let first = diff(&mut presence)["joins"]["u"]["metas"][0].clone();
    for n in 1..=1_000 {
        let meta = format!(r#"{{"n":{n}}}"#);
        presence.update(ANN, &key("u"), meta.as_bytes()).unwrap();
        presence
            .track(BOB, &key(&n.to_string()), br#"{"short":"lived"}"#)
            .unwrap();
        presence.untrack(BOB, &key(&n.to_string())).unwrap();
        presence.commit();
    }
    assert_eq!(presence.changes.len(), 1);
    assert_eq!(
        presence
            .changes
            .values()
            .map(|change| change.shown.len())
            .sum::<usize>(),
        0
    );
    let said = diff(&mut presence);
    assert_eq!(said["leaves"], serde_json::json!({ "u": { "metas": [first] } }));
    let last = &said["joins"]["u"]["metas"];
    assert_eq!(
        (last.as_array().unwrap().len(), &last[0]["n"]),
        (1, &Value::from(1_000))
    );
    assert_eq!(last[0]["phx_ref_prev"], first["phx_ref"]);
}

#[test]
fn what_came_and_went_unseen_is_not_said() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), b"{}").unwrap();
    presence.describe(&key("u"), br#"{"n":1}"#).unwrap();
    presence.leave(ANN);
    presence.commit();
    assert_eq!(presence.flush(Instant::now(), Duration::ZERO), Flush::Nothing);
    assert!(presence.changes.is_empty() && presence.gone.is_empty());
}

#[test]
fn a_meta_that_a_state_has_shown_leaves_in_the_next_diff() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
    presence.track(BOB, &key("v"), b"{}").unwrap();
    // A client that joins now keeps both of these, though no diff has announced them.
    let state = json(&presence.state());
    presence.update(ANN, &key("u"), br#"{"n":2}"#).unwrap();
    presence.leave(BOB);
    presence.commit();
    let said = diff(&mut presence);
    for key in ["u", "v"] {
        assert_eq!(said["leaves"][key], state[key]);
    }
    let joins = &said["joins"]["u"]["metas"];
    assert_eq!((&joins[0], &joins[1]["n"]), (&state["u"]["metas"][0], &Value::from(2)));
    assert_eq!(joins[1]["phx_ref_prev"], joins[0]["phx_ref"]);
    assert_eq!(said["joins"]["v"], state["v"]);
}

#[test]
fn metas_that_were_shown_and_are_gone_are_bounded() {
    const INTERVAL: Duration = Duration::from_secs(3_600);
    let (mut presence, start) = (Presence::default(), Instant::now());
    let (mut diffs, mut most) = (0, 0);
    let meta = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_000));
    presence.track(ANN, &key("u"), b"{}").unwrap();
    for _ in 0..1_000 {
        let _ = presence.state();
        presence.update(ANN, &key("u"), meta.as_bytes()).unwrap();
        presence.commit();
        let kept = presence.changes.values().map(Change::shown_bytes).sum();
        assert_eq!(presence.shown_bytes, kept);
        most = most.max(kept);
        diffs += usize::from(matches!(presence.flush(start, INTERVAL), Flush::Diff(_)));
    }
    assert!(most < MAX_SHOWN_BYTES + 2_000, "{most} bytes");
    assert!((10..100).contains(&diffs), "{diffs} diffs in the time of one");
}

#[test]
fn a_change_of_a_failed_event_is_taken_back_whole() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), br#"{"n":1}"#).unwrap();
    presence.commit();
    diff(&mut presence);
    presence.update(ANN, &key("u"), br#"{"n":2}"#).unwrap();
    presence.track(BOB, &key("v"), b"{}").unwrap();
    presence.commit();
    let shown = json(&presence.state());
    // This event fails: what the one before changed is still said.
    presence.update(ANN, &key("u"), br#"{"n":3}"#).unwrap();
    presence.untrack(ANN, &key("u")).unwrap();
    presence.untrack(BOB, &key("v")).unwrap();
    presence.track(BOB, &key("w"), b"{}").unwrap();
    presence.roll_back();
    assert_eq!(presence.shown_bytes, 0);
    let said = diff(&mut presence);
    assert_eq!(said["joins"], shown);
    assert_eq!(said["leaves"]["u"]["metas"][0]["n"], 1);
    assert_eq!(said["leaves"].as_object().unwrap().len(), 1);
}

#[test]
fn a_meta_names_the_replica_that_made_it() {
    let mut presence = Presence::default();
    presence.track(ANN, &key("u"), b"{}").unwrap();
    presence.track(BOB, &key("u"), b"{}").unwrap();
    let tags: Vec<Tag> = presence.entries[&key("u")].metas.iter().map(|meta| meta.tag).collect();
    assert_eq!(tags[0].replica, tags[1].replica);
    assert!(tags[0].clock < tags[1].clock);
    assert_ne!(tags[0].phx_ref(), tags[1].phx_ref());
}

#[test]
fn a_meta_cannot_bring_references_of_its_own() {
    let mut presence = Presence::default();
    for (member, meta) in [
        (ANN, r#"{"phx_ref":"same","name":"ann"}"#),
        (BOB, r#"{"name":"bob","phx\u005fref":"same","phx_ref_prev":"same"}"#),
    ] {
        presence.track(member, &key("u"), meta.as_bytes()).unwrap();
    }
    let text = String::from_utf8(presence.state().to_vec()).unwrap();
    assert_eq!(
        (text.matches("phx").count(), text.contains("same")),
        (2, false),
        "{text}"
    );
    assert!(text.contains(r#""name":"ann""#) && text.contains(r#""name":"bob""#));
}

/// What the list takes, counted anew.
fn counted(presence: &Presence) -> usize {
    let metas = { presence.entries.iter() }.flat_map(|(key, entry)| entry.metas.iter().map(|meta| weight(key, meta)));
    metas.sum::<usize>() + presence.entries.values().map(|entry| entry.beside.len()).sum::<usize>()
}

#[test]
fn the_size_of_the_list_is_known_whatever_happens_to_it() {
    let mut presence = Presence::default();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5_000 {
        let member = [ANN, BOB][random.usize(..2)];
        let key = key(["a", "bb"][random.usize(..2)]);
        let text = format!(r#"{{"x":"{}"}}"#, "x".repeat(random.usize(..40)));
        let _ = match random.usize(..6) {
            0 => presence.track(member, &key, text.as_bytes()),
            1 => presence.update(member, &key, text.as_bytes()),
            2 => presence.untrack(member, &key),
            3 => presence.describe(&key, text.as_bytes()),
            4 => {
                presence.roll_back();
                Ok(())
            }
            _ => {
                presence.commit();
                Ok(())
            }
        };
        assert_eq!(presence.bytes, counted(&presence));
    }
    presence.leave(ANN);
    presence.leave(BOB);
    assert_eq!(presence.bytes, 0);
}
