//! Two ends of a link, and a broker between them that loses what it likes.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds {
    window: 600,
    envelope: 100,
    item: 400,
    patience: Duration::from_secs(5),
};

/// One end, with what its owner knows.
struct End {
    link: Link,
    /// How often it was seen to break or come up: what is sent belongs to this session.
    session: u32,
    sent: u32,
    /// The session of the other end that items come from, and the next number.
    expected: Option<(u32, u32)>,
    received: usize,
}

/// Two ends, and what is on the way to each.
struct Pair {
    ends: [End; 2],
    ways: [VecDeque<Vec<u8>>; 2],
    now: Instant,
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize, usize),
    Deliver(usize),
    Lose(usize),
    Restart(usize),
    Wait(u64),
}

fn item(session: u32, number: u32, size: usize) -> Vec<u8> {
    let mut item = vec![0; 4];
    item.extend(session.to_be_bytes());
    item.extend(number.to_be_bytes());
    item.resize(12 + size, 7);
    let length = (item.len() - 4) as u32;
    item[..4].copy_from_slice(&length.to_be_bytes());
    item
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let end = || End {
            link: Link::new(BOUNDS, 1, now),
            session: 0,
            sent: 0,
            expected: None,
            received: 0,
        };
        Self {
            ends: [end(), end()],
            ways: [VecDeque::new(), VecDeque::new()],
            now,
        }
    }

    fn flush(&mut self) {
        for (at, end) in self.ends.iter_mut().enumerate() {
            while let Some(envelope) = end.link.next(self.now) {
                assert!(envelope.len() <= BOUNDS.envelope);
                assert!(end.link.unconfirmed() <= BOUNDS.window + BOUNDS.envelope);
                self.ways[1 - at].push_back(envelope);
            }
        }
    }

    fn deliver(&mut self, to: usize) {
        let Some(bytes) = self.ways[to].pop_front() else { return };
        let envelope = Envelope::read(&bytes).expect("one of ours");
        let end = &mut self.ends[to];
        let items = match end.link.receive(&envelope, self.now) {
            Received::Nothing => return,
            Received::Broken(_) => return end.begin(),
            Received::Up(items) => {
                end.begin();
                items
            }
            Received::Items(items) => items,
        };
        let mut rest = &*items;
        while let Some((length, body)) = rest.split_first_chunk::<4>() {
            let (item, after) = body.split_at(u32::from_be_bytes(*length) as usize);
            rest = after;
            let word = |at: usize| u32::from_be_bytes(item[at..at + 4].try_into().expect("four bytes"));
            let (session, number) = end.expected.unwrap_or((word(0), 0));
            assert_eq!(
                (word(0), word(4)),
                (session, number),
                "in order, whole, and of one session"
            );
            end.expected = Some((session, number + 1));
            end.received += 1;
        }
        assert_eq!(rest, b"", "only whole items");
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Send(from, size) => {
                let end = &mut self.ends[from];
                if end.link.is_up() {
                    let item = item(end.session, end.sent, size);
                    end.sent += 1;
                    end.link.add(|out| out.extend(&item));
                }
            }
            Step::Deliver(to) => self.deliver(to),
            Step::Lose(to) => drop(self.ways[to].pop_front()),
            Step::Restart(at) => {
                self.ends[at].link.restart(self.now);
                self.ends[at].begin();
            }
            Step::Wait(ms) => self.now += Duration::from_millis(ms),
        }
        for end in &mut self.ends {
            if end.link.is_stuck(self.now) {
                end.link.restart(self.now);
                end.begin();
            }
        }
        self.flush();
    }

    /// Nothing is lost any more.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.step(&Step::Wait(50));
            for to in [0, 1] {
                while !self.ways[to].is_empty() {
                    self.deliver(to);
                }
            }
        }
    }
}

impl End {
    fn begin(&mut self) {
        self.session += 1;
        self.sent = 0;
        self.expected = None;
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, 0..300_usize).prop_map(|(from, size)| Step::Send(from, size)),
        12 => (0..2_usize).prop_map(Step::Deliver),
        1 => (0..2_usize).prop_map(Step::Lose),
        1 => (0..2_usize).prop_map(Step::Restart),
        2 => (1..6_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn items_arrive_whole_once_and_in_order_or_the_link_breaks(steps in prop::collection::vec(step(), 1..200)) {
        let mut pair = Pair::new();
        pair.flush();
        steps.iter().for_each(|step| pair.step(step));
        pair.settle();
        prop_assert!(pair.ends.iter().all(|end| end.link.is_up()), "it comes up again");
        for at in [0, 1] {
            let before = pair.ends[1 - at].received;
            (0..3).for_each(|_| pair.step(&Step::Send(at, 250)));
            pair.settle();
            prop_assert_eq!(pair.ends[1 - at].received, before + 3);
            prop_assert_eq!(pair.ends[at].link.unconfirmed(), 0, "all is confirmed");
        }
    }
}

#[test]
fn two_ends_that_know_an_earlier_epoch_of_each_other_come_up() {
    use Step::{Deliver, Lose, Restart, Send};
    let steps = [
        &[Deliver(1), Restart(1), Deliver(0), Deliver(0), Send(0, 60), Deliver(0)][..],
        &[
            Deliver(1),
            Deliver(1),
            Deliver(0),
            Deliver(1),
            Deliver(1),
            Restart(0),
            Restart(0),
        ],
        &[Deliver(1), Deliver(1), Deliver(1), Lose(1), Send(0, 0)],
    ];
    let mut pair = Pair::new();
    pair.flush();
    steps.concat().iter().for_each(|step| pair.step(step));
    pair.settle();
    assert!(pair.ends.iter().all(|end| end.link.is_up()));
}

#[test]
fn a_loss_is_noticed_by_the_receiver_or_else_by_the_sender() {
    for again in [true, false] {
        let mut pair = Pair::new();
        pair.settle();
        pair.step(&Step::Send(0, 10));
        pair.step(&Step::Lose(1));
        let before = pair.ends[0].session;
        if again {
            pair.step(&Step::Send(0, 10));
            pair.step(&Step::Deliver(1));
            assert!(!pair.ends[1].link.is_up(), "a number is missing");
        }
        pair.settle();
        pair.step(&Step::Wait(6_000));
        pair.settle();
        assert!(pair.ends[0].session > before && pair.ends[1].received == 0);
    }
}

#[test]
fn an_item_that_is_too_long_breaks_the_link() {
    let mut pair = Pair::new();
    pair.settle();
    let before = pair.ends[1].session;
    pair.step(&Step::Send(0, BOUNDS.item));
    pair.step(&Step::Deliver(1));
    assert!(pair.ends[1].session > before);
}
