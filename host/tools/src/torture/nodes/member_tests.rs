//! What a member notices, and what it takes for granted.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::torture::nodes::plan::Plan;

struct Test {
    world: Arc<World>,
    member: Member,
    run: RunId,
    last_ref: u64,
}

impl Test {
    /// A client that has joined a topic in which nothing has happened.
    fn new() -> Self {
        let world = World::new(Plan {
            nodes: 1,
            clients: 1,
            topics: 1,
            shards: 1,
            rate: 1,
            rounds: 1,
            lease: Duration::from_secs(5),
            seed: 0,
            broker: "nats-server".into(),
            logs: None,
        });
        let member = Member::new(Arc::clone(&world.topics[0]), 1, Arc::clone(&world));
        let run = world.started(([127, 0, 0, 1], 4000).into());
        let mut test = Self {
            world,
            member,
            run,
            last_ref: 0,
        };
        test.join(&[]);
        test
    }

    fn next_ref(&mut self) -> u64 {
        self.last_ref += 1;
        self.last_ref
    }

    fn join(&mut self, entries: &[u64]) {
        let (msg_ref, mark) = (self.next_ref(), self.member.mark());
        self.member.joining(msg_ref, mark);
        self.member.reply(msg_ref, "ok", &state(entries));
    }

    /// Pushes the next event. Returns its `ref`.
    fn push(&mut self) -> u64 {
        let (msg_ref, number) = (self.next_ref(), self.member.next_number());
        self.member.pushed(msg_ref, number, Instant::now());
        msg_ref
    }

    fn hear(&mut self, number: u64, n: u32) {
        self.member
            .event(self.run, "put", None, &json!({ "s": number, "c": 1, "n": n }));
    }

    fn answer(&mut self, msg_ref: u64, number: u64, n: u32) {
        let reply = json!({ "n": n, "s": number, "expected": n });
        self.member.reply(msg_ref, "ok", &reply);
    }

    fn end(&mut self) {
        let why = json!({ "reason": reason::NODE_LOST });
        self.member
            .event(self.run, event::ERROR, Some(self.member.join_ref), &why);
    }

    fn audit(&mut self, entries: &[u64], last: u32) {
        let (msg_ref, mark) = (self.next_ref(), self.member.mark());
        self.member.audit(msg_ref, 1, mark);
        let member = json!({ "last": last, "notes": 0 });
        let audit = json!({ "state": state(entries), "member": member });
        self.member.reply(msg_ref, "ok", &audit);
    }

    /// Whether so much was lost, doubled, out of order, different and undone.
    #[track_caller]
    fn check(&self, expected: [i64; 5]) {
        let tally = &self.world.tally;
        let counts = [
            &tally.lost,
            &tally.doubled,
            &tally.reordered,
            &tally.differences,
            &self.world.counts.undone,
        ];
        assert_eq!(counts.map(|count| count.get()), expected, "{:?}", tally.findings());
    }
}

fn state(entries: &[u64]) -> Value {
    let digest = entries.iter().fold(0, |digest, entry| chained(digest, *entry));
    json!({ "born": 7, "count": entries.len(), "digest": digest, "list": entries, "ticks": 1 })
}

/// The entries of the first events of the client.
fn own(count: u32) -> Vec<u64> {
    (1..=count).map(|number| entry(1, number)).collect()
}

#[test]
fn what_comes_once_and_in_order_is_as_it_must_be() {
    let mut test = Test::new();
    for number in 1..=3 {
        let msg_ref = test.push();
        test.hear(number.into(), number);
        test.answer(msg_ref, number.into(), number);
    }
    test.audit(&own(3), 3);
    test.check([0; 5]);
    assert!(test.member.has_audit(1) && test.world.counts.back.get() == 1);
}

#[test]
fn a_gap_is_lost_unless_the_channel_has_ended_and_the_client_has_joined_again() {
    let mut test = Test::new();
    test.push();
    test.push();
    test.end();
    test.join(&own(2));
    test.push();
    test.hear(3, 3);
    test.check([0; 5]);
    assert_eq!(test.world.counts.unanswered.get(), 2);
    test.hear(5, 5);
    test.check([1, 0, 0, 0, 0]);
}

#[test]
fn what_an_audit_knows_and_the_client_does_not_is_lost() {
    let mut test = Test::new();
    test.push();
    test.audit(&own(1), 1);
    // The broadcast and the answer. So the states differ, too.
    test.check([2, 0, 0, 1, 0]);
}

#[test]
fn an_answer_comes_after_its_broadcast_and_before_the_end_of_its_channel() {
    let mut test = Test::new();
    let (first, second, third) = (test.push(), test.push(), test.push());
    test.answer(first, 1, 1);
    test.check([0, 0, 1, 0, 0]);
    test.hear(1, 1);
    test.end();
    test.answer(second, 2, 2);
    test.check([0, 0, 2, 0, 0]);
    let why = json!({ "reason": reason::UNMATCHED_TOPIC });
    test.member.reply(third, "error", &why);
    test.check([0, 0, 2, 0, 0]);
    assert_eq!(
        (test.world.counts.refused.get(), test.world.counts.unanswered.get()),
        (1, 0)
    );
}

#[test]
fn an_event_that_is_answered_with_an_error_must_not_be_in_the_topic() {
    let mut test = Test::new();
    let msg_ref = test.push();
    test.member
        .reply(msg_ref, "error", &json!({ "reason": reason::TOPIC_MOVED }));
    test.check([0; 5]);
    test.end();
    test.join(&own(1));
    test.check([0, 0, 0, 1, 0]);
}

#[test]
fn what_a_client_was_told_of_is_there_when_it_joins_again() {
    let mut test = Test::new();
    let msg_ref = test.push();
    test.hear(1, 1);
    test.answer(msg_ref, 1, 1);
    test.end();
    test.join(&[]);
    test.check([0, 0, 0, 0, 1]);
}
