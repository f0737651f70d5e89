//! [`Session`] with clients of every kind, and networks that lose responses.

use proptest::prelude::*;

use super::*;

const WINDOW: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits {
    window: WINDOW,
    messages: 1000,
    bytes: 1_000_000,
};

fn session(now: Instant) -> Session<u32> {
    Session::new(LIMITS, now)
}

fn answered(messages: &[u32], position: u64) -> Polled<u32> {
    Polled::Answer(Answer {
        messages: messages.to_vec(),
        position,
    })
}

fn ticket(polled: Polled<u32>) -> Ticket {
    match polled {
        Polled::Wait(ticket) => ticket,
        Polled::Answer(answer) => panic!("{answer:?} instead of a wait"),
    }
}

#[test]
fn a_poll_with_a_position_frees_what_is_before_it() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 10, None).unwrap();
    session.push(2, 10, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1, 2], 2));
    session.push(3, 10, None).unwrap();
    assert_eq!(session.kept_bytes, 30);
    assert_eq!(session.poll(2, now), answered(&[3], 3));
    assert_eq!(session.kept_bytes, 10);
    ticket(session.poll(3, now));
    assert_eq!((session.kept_bytes, session.kept.capacity()), (0, 0));
}

#[test]
fn a_retry_gets_the_same_messages_again_and_what_came_since() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    session.push(2, 1, None).unwrap();
    assert_eq!(session.poll(1, now), answered(&[2], 2));
    session.push(3, 1, None).unwrap();
    for _ in 0..10 {
        assert_eq!(session.poll(1, now), answered(&[2, 3], 3));
    }
    assert_eq!(session.poll(0, now), answered(&[2, 3], 3), "what is acked is gone");
}

#[test]
fn a_position_that_was_never_given_frees_only_what_was_sent() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 1, None).unwrap();
    assert_eq!(session.poll(99, now), answered(&[1], 1));
}

#[test]
fn a_waiting_poll_gets_what_is_pushed() {
    let now = Instant::now();
    let mut session = session(now);
    let waits = ticket(session.poll(0, now));
    assert_eq!(session.waiting(), None);
    assert_eq!(session.take(waits, now), None);
    session.push(1, 1, None).unwrap();
    session.push(2, 1, None).unwrap();
    assert_eq!(session.waiting(), Some(waits));
    assert_eq!(
        session.take(waits, now),
        Some(Answer {
            messages: vec![1, 2],
            position: 2
        })
    );
    assert_eq!(session.waiting(), None);
    assert_eq!(session.take(waits, now), None);
}

#[test]
fn a_poll_that_ends_empty_keeps_its_position() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    let waits = ticket(session.poll(1, now));
    assert_eq!(
        session.end_wait(waits, now),
        Answer {
            messages: vec![],
            position: 1
        }
    );
    session.push(2, 1, None).unwrap();
    assert_eq!(session.waiting(), None);
    assert_eq!(session.poll(1, now), answered(&[2], 2));
}

#[test]
fn the_newest_poll_wins() {
    let now = Instant::now();
    let mut session = session(now);
    let older = ticket(session.poll(0, now));
    let newer = ticket(session.poll(0, now));
    session.push(1, 1, None).unwrap();
    assert_eq!(session.take(older, now), None);
    assert_eq!(
        session.end_wait(older, now),
        Answer {
            messages: vec![],
            position: 0
        }
    );
    assert_eq!(
        session.take(newer, now),
        Some(Answer {
            messages: vec![1],
            position: 1
        })
    );
    let older = ticket(session.poll(1, now));
    session.push(2, 1, None).unwrap();
    assert_eq!(session.poll(1, now), answered(&[2], 2));
    assert_eq!(session.take(older, now), None);
}

#[test]
fn a_client_that_never_takes_up_tokens_gets_one_batch_twice() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    let waits = ticket(session.poll(0, now));
    session.push(2, 1, None).unwrap();
    session.push(3, 1, None).unwrap();
    assert_eq!(
        session.take(waits, now),
        Some(Answer {
            messages: vec![2, 3],
            position: 3
        })
    );
    session.push(4, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[4], 4));
    let waits = ticket(session.poll(0, now));
    session.end_wait(waits, now);
    ticket(session.poll(0, now));
}

#[test]
fn a_client_that_takes_up_a_token_late_is_believed() {
    let now = Instant::now();
    let mut session = session(now);
    session.push(1, 1, None).unwrap();
    session.poll(0, now);
    session.poll(0, now);
    session.push(2, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[2], 2));
    assert_eq!(session.poll(1, now), answered(&[2], 2));
    assert_eq!(session.poll(1, now), answered(&[2], 2));
    assert_eq!(session.poll(1, now), answered(&[2], 2));
}

#[test]
fn a_post_acks_as_a_poll_does_and_shows_that_tokens_are_taken_up() {
    let now = Instant::now();
    let mut session = session(now);
    session.posted(0);
    session.push(1, 1, None).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    session.posted(0);
    session.posted(1);
    assert_eq!(session.kept_bytes, 0);
    session.push(2, 1, None).unwrap();
    for _ in 0..4 {
        assert_eq!(session.poll(0, now), answered(&[2], 2));
    }
}

#[test]
fn what_waits_is_bounded_in_messages_and_bytes() {
    let now = Instant::now();
    let mut session = Session::new(
        Limits {
            messages: 2,
            bytes: 100,
            ..LIMITS
        },
        now,
    );
    session.push(1, 50, None).unwrap();
    assert_eq!(session.push(2, 51, None), Err(Overflow { messages: 1, bytes: 50 }));
    session.push(2, 50, None).unwrap();
    assert_eq!(
        session.push(3, 0, None),
        Err(Overflow {
            messages: 2,
            bytes: 100
        })
    );
    assert_eq!(session.poll(0, now), answered(&[1, 2], 2));
    assert!(session.push(3, 0, None).is_err(), "what is not acked counts");
    ticket(session.poll(2, now));
    session.push(3, 100, None).unwrap();
}

#[test]
fn a_session_dies_one_and_a_half_windows_after_its_last_poll() {
    let start = Instant::now();
    let patience = WINDOW * 3 / 2;
    let mut session = session(start);
    assert_eq!(session.deadline(), Some(start + patience));
    assert!(!session.expired(start + patience - Duration::from_millis(1)));
    assert!(session.expired(start + patience));

    let waits = ticket(session.poll(0, start));
    assert_eq!(session.deadline(), None);
    assert!(
        !session.expired(start + WINDOW * 10),
        "a poll that waits keeps it alive"
    );
    session.end_wait(waits, start + WINDOW);
    assert_eq!(session.deadline(), Some(start + WINDOW + patience));

    session.push(1, 1, None).unwrap();
    assert_eq!(session.deadline(), Some(start + WINDOW + patience), "pushes do not");
    session.poll(0, start + WINDOW * 2);
    assert_eq!(session.deadline(), Some(start + WINDOW * 2 + patience));
}

/// What happens next to a client and its session.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Messages are pushed.
    Push(u32),
    /// A poll, whose response arrives.
    Poll,
    /// A poll, whose response gets lost.
    Lost,
    /// A poll with nothing to get is hung up on, by its client or on the way.
    HangUp,
    /// A poll that the client sent before its last one comes once more, and nobody reads the response.
    Echo,
    /// A message of the client's own.
    Post,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..5_u32).prop_map(Step::Push),
        4 => Just(Step::Poll),
        2 => Just(Step::Lost),
        1 => Just(Step::HangUp),
        1 => Just(Step::Echo),
        1 => Just(Step::Post),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A client that notes what it gets.
struct Client {
    session: Session<u32>,
    now: Instant,
    pushed: u32,
    got: Vec<u32>,
    position: u64,
    before: u64,
    /// What it may still lose before it takes up its first token.
    losses: u32,
}

impl Client {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            session: session(now),
            now,
            pushed: 0,
            got: vec![],
            position: 0,
            before: 0,
            losses: 1,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(count) => self.push(count),
            Step::Poll => {
                let answer = self.poll(self.position);
                self.got.extend(answer.messages);
                self.before = self.position;
                self.position = answer.position;
            }
            Step::Post => self.session.posted(self.position),
            // Until it has shown that it takes up tokens, a client is granted one loss.
            _ if !matches!(self.session.uptake, Uptake::Yes) && std::mem::take(&mut self.losses) == 0 => {}
            Step::Lost => drop(self.poll(self.position)),
            Step::Echo => drop(self.poll(self.before)),
            Step::HangUp => {
                if let Polled::Wait(ticket) = self.session.poll(self.position, self.now) {
                    self.session.end_wait(ticket, self.now);
                    self.push(1);
                    assert_eq!(self.session.take(ticket, self.now), None);
                }
            }
        }
    }

    fn push(&mut self, count: u32) {
        for _ in 0..count {
            self.session.push(self.pushed, 1, None).unwrap();
            self.pushed += 1;
        }
    }

    /// Polls, waits until a message is pushed if need be, or in vain.
    fn poll(&mut self, position: u64) -> Answer<u32> {
        match self.session.poll(position, self.now) {
            Polled::Answer(answer) => answer,
            Polled::Wait(ticket) if self.pushed.is_multiple_of(3) => self.session.end_wait(ticket, self.now),
            Polled::Wait(ticket) => {
                self.push(2);
                self.session.take(ticket, self.now).expect("a message was pushed")
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_client_that_takes_up_tokens_gets_each_message_once_and_in_order(steps in steps()) {
        let mut client = Client::new();
        for step in steps {
            client.step(step);
        }
        client.push(1);
        client.step(Step::Poll);
        prop_assert_eq!(client.got, (0..client.pushed).collect::<Vec<_>>());
    }

    #[test]
    fn a_client_that_never_takes_up_tokens_misses_nothing_and_gets_little_twice(batches in proptest::collection::vec(0..4_u32, 1..30)) {
        let mut client = Client::new();
        let mut answers = Vec::new();
        for count in batches {
            client.push(count);
            answers.push(client.poll(0).messages);
        }
        answers.retain(|messages| !messages.is_empty());
        if let [first, second, ..] = answers.as_slice() {
            prop_assert!(second.starts_with(first));
            answers.remove(0);
        }
        let got: Vec<_> = answers.concat();
        prop_assert_eq!(&got, &(0..got.len() as u32).collect::<Vec<_>>());
        prop_assert_eq!(got.len() as u32, client.pushed);
    }
}

#[test]
fn a_full_session_keeps_the_newest_of_replaceable_messages_that_no_answer_has_held() {
    let now = Instant::now();
    let price = Some(Replaceable::new("ticker", "price"));
    let limits = Limits { messages: 8, ..LIMITS };
    let mut session = Session::new(limits, now);
    session.push(1, 1, price).unwrap();
    assert_eq!(session.poll(0, now), answered(&[1], 1));
    session.push(2, 1, None).unwrap();
    for message in 3..=8 {
        assert_eq!(session.push(message, 1, price), Ok(0));
    }
    assert_eq!(session.push(9, 1, price), Ok(5));
    assert_eq!(session.poll(0, now), answered(&[1, 2, 8, 9], 4));
    ticket(session.poll(4, now));
    assert_eq!(session.kept_bytes, 0);
}
