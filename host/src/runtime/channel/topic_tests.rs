use std::collections::HashSet;

use super::*;
use crate::runtime::channel::charge::Bounds;

const MEMBER: MemberId = MemberId::new(0, 1, 1);

const BOUNDS: Bounds = Bounds {
    events: 100,
    bytes: 10_000,
    messages: 100,
    message_bytes: 10_000,
    total_bytes: 20_000,
    share_bytes: 1_000,
};

fn totals() -> Arc<Totals> {
    Arc::new(Totals::within(BOUNDS))
}

fn owner() -> Owner {
    Arc::new(RunQueue::new(1, Arc::new(HashSet::new()), Arc::default()))
}

fn topic(totals: &Arc<Totals>, owner: &Owner) -> Arc<Topic> {
    owner.enter();
    Arc::new(Topic::new("room:a".into(), 1, Arc::clone(totals), Arc::clone(owner)))
}

/// An event with a small payload in a frame of this size.
fn event(frame_bytes: usize) -> Input {
    Input::In {
        join_ref: None,
        member: MEMBER,
        msg_ref: None,
        event: "e".into(),
        payload: Payload::EMPTY,
        frame_bytes,
        trace: None,
    }
}

fn message(bytes: usize) -> Input {
    Input::Out {
        event: "e".into(),
        payload: Payload::Json(vec![b' '; bytes].into()),
        except: None,
    }
}

/// How many of these a topic takes, one after the other.
fn taken(topic: &Arc<Topic>, input: impl Fn() -> Input) -> usize {
    (0..1_000).take_while(|_| topic.push(input()).is_ok()).count()
}

fn clients(totals: &Totals) -> usize {
    totals.clients.load(Ordering::Relaxed)
}

#[test]
fn an_event_counts_with_its_whole_frame_and_its_place() {
    let (totals, owner) = (totals(), owner());
    assert_eq!(taken(&topic(&totals, &owner), || event(4_000)), 2);
    let small = taken(&topic(&totals, &owner), || event(0));
    assert!(small * 2 * size_of::<Input>() <= BOUNDS.bytes, "{small} empty events");
}

#[test]
fn an_event_in_hand_counts_until_it_is_handled() {
    let (totals, owner) = (totals(), owner());
    let topic = topic(&totals, &owner);
    assert_eq!(taken(&topic, || event(4_000)), 2);
    let in_hand = topic.start(&owner, 1).expect("it is scheduled");
    assert_eq!(topic.push(event(4_000)), Err(Refused::Overloaded));
    topic.finish(std::iter::empty());
    drop(in_hand);
    assert_eq!(topic.push(event(4_000)), Ok(()));
    let in_hand = topic.start(&owner, 10).expect("it is scheduled");
    // All of it goes back.
    topic.finish(in_hand.into_iter());
    assert_eq!(topic.push(event(4_000)), Err(Refused::Overloaded));
    drop(topic);
    owner.close();
    assert_eq!(clients(&totals), 0);
}

#[test]
fn one_event_may_always_wait_however_large() {
    let (totals, owner) = (totals(), owner());
    assert_eq!(taken(&topic(&totals, &owner), || event(1_000_000)), 1);
}

#[test]
fn all_topics_together_have_a_bound_and_leave_each_its_share() {
    let (totals, owner) = (totals(), owner());
    let topics: Vec<_> = (0..100).map(|_| topic(&totals, &owner)).collect();
    let large: usize = topics.iter().map(|topic| taken(topic, || event(4_000))).sum();
    assert_eq!(large, 4);
    // Those with nothing take one small event each, and no more.
    let small = topics.iter().map(|topic| taken(topic, || event(100)));
    assert!(
        small.clone().skip(10).all(|taken| taken == 1),
        "{:?}",
        small.collect::<Vec<_>>()
    );
    drop(topics);
    owner.close();
    assert_eq!(clients(&totals), 0);
}

#[test]
fn what_the_record_keeps_leaves_less_room_for_events() {
    let (totals, owner) = (totals(), owner());
    let topic = topic(&totals, &owner);
    let charge = topic.charge(8_000);
    assert_eq!(taken(&topic, || event(1_000)), 1);
    assert!(clients(&totals) > 9_000);
    drop(charge);
    assert!(taken(&topic, || event(1_000)) > 1);
}

#[test]
fn messages_of_plugins_have_bounds_of_their_own() {
    let (totals, owner) = (totals(), owner());
    let topic = topic(&totals, &owner);
    assert_eq!(taken(&topic, || event(4_000)), 2);
    assert_eq!(taken(&topic, || message(4_000)), 2);
    assert_eq!(taken(&topic, || message(4_000)), 0);
    assert!(totals.plugins.load(Ordering::Relaxed) > 8_000);
}

#[test]
fn other_bounds_hold_at_once_for_a_topic_that_is_there() {
    let (totals, owner) = (totals(), owner());
    let topic = topic(&totals, &owner);
    totals.set_bounds(Bounds { events: 7, ..BOUNDS });
    assert_eq!(taken(&topic, || event(0)), 7);
    totals.set_bounds(BOUNDS);
    assert!(taken(&topic, || event(0)) > 0);
}
