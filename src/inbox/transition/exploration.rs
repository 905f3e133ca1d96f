//! Explores every state of a row that webhooks and two workers can reach, in any order of their calls, and with any lease
//! expired at any time. Each transition is held against the contract of [`InboxStore`](crate::inbox::InboxStore).
//!
//! Rows do not know of each other, so one row suffices. Times are due or not yet due: what is later than now is a
//! microsecond later, and a tick makes all of it due.

mod flaw;
mod rules;
mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write;

use self::flaw::{FLAWS, Flaw};
use self::state::{Call, Reply, State};

/// Traces that together take every kind of transition. `tests/it` replays them in SQLite and PostgreSQL.
const TRACES: &str = include_str!("exploration/traces.txt");

/// The number of calls after which a trace ends.
const TRACE: usize = 50;

/// The states found so far, each with the state and the call that led to it.
struct Found {
    states: Vec<State>,
    from: Vec<Option<(usize, Call)>>,
    places: HashMap<State, usize>,
}

impl Found {
    fn new() -> Self {
        let empty = State::default();
        Self { states: vec![empty.clone()], from: vec![None], places: HashMap::from([(empty, 0)]) }
    }

    fn add(&mut self, state: State, from: usize, call: Call) {
        let next = self.states.len();
        self.places.entry(state).or_insert_with_key(|state| {
            self.states.push(state.clone());
            self.from.push(Some((from, call)));
            next
        });
    }

    /// The calls that lead to a state.
    fn trace(&self, mut place: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        while let Some((from, call)) = self.from[place] {
            calls.push(call);
            place = from;
        }
        calls.reverse();
        calls
    }
}

/// Explores all states, breadth first. Returns them, or the first broken rule with the calls that lead to it.
fn explore(flaw: Option<Flaw>) -> Result<(Found, usize), String> {
    let (mut found, mut transitions, mut place) = (Found::new(), 0, 0);
    while let Some(before) = found.states.get(place).cloned() {
        let broken = |found: &Found, rule: &str, call: Option<Call>| {
            let calls: Vec<_> = found.trace(place).into_iter().chain(call).collect();
            format!("{rule}: {calls:?}")
        };
        if let Err(rule) = rules::ends(&before, flaw) {
            return Err(broken(&found, rule, None));
        }
        for call in before.calls() {
            transitions += 1;
            let (reply, mut after) = before.call(call, flaw);
            if let Err(rule) = rules::check(&before, call, reply, &mut after, flaw) {
                return Err(broken(&found, rule, Some(call)));
            }
            after.simplify();
            found.add(after, place, call);
        }
        place += 1;
    }
    Ok((found, transitions))
}

/// The call, the phase before it, the reply and, unless the call is stale, more of the states before and after it.
type Kind = (Call, u8, Reply, Option<(state::Kind, state::Kind)>);

/// A transition that a database can make, too: time does not pass there.
struct Edge {
    call: Call,
    kind: Kind,
    to: usize,
}

impl Found {
    fn edges(&self) -> Vec<Vec<Edge>> {
        let edge = |before: &State, call: Call| {
            let (reply, mut after) = before.call(call, None);
            // A stale write changes nothing, whatever the row is like.
            let states = (!before.is_stale(call)).then(|| (before.kind(), after.kind()));
            let kind = (call.without_worker(), before.kind().0, reply, states);
            after.simplify();
            self.places.get(&after).map(|to| Edge { call, kind, to: *to })
        };
        let edges = |before: &State| {
            let calls = before.calls().into_iter().filter(|call| *call != Call::Tick);
            calls.filter_map(|call| edge(before, call)).collect()
        };
        self.states.iter().map(edges).collect()
    }
}

/// The shortest way from a state to a transition of a new kind, with that transition.
fn way<'a>(edges: &'a [Vec<Edge>], from: usize, known: &HashSet<Kind>) -> Option<Vec<&'a Edge>> {
    let mut reached: HashMap<usize, Option<(usize, &Edge)>> = HashMap::from([(from, None)]);
    let mut next = VecDeque::from([from]);
    while let Some(place) = next.pop_front() {
        for edge in &edges[place] {
            if !known.contains(&edge.kind) {
                let mut way = vec![edge];
                let mut place = place;
                while let Some(Some((before, edge))) = reached.get(&place) {
                    way.push(edge);
                    place = *before;
                }
                way.reverse();
                return Some(way);
            }
            reached.entry(edge.to).or_insert_with(|| {
                next.push_back(edge.to);
                Some((place, edge))
            });
        }
    }
    None
}

/// The traces, one in each line.
fn traces(found: &Found) -> String {
    let edges = found.edges();
    let (mut known, mut text) = (HashSet::new(), String::new());
    loop {
        let (mut calls, mut place) = (Vec::new(), 0);
        while calls.len() < TRACE
            && let Some(way) = way(&edges, place, &known)
        {
            for edge in way {
                known.insert(edge.kind);
                calls.push(edge.call);
                place = edge.to;
            }
        }
        if calls.is_empty() {
            return text;
        }
        let _ = writeln!(text, "{}", written(&calls).join("; "));
    }
}

/// A trace as text. A call names its lease by the number of leases since then.
fn written(calls: &[Call]) -> Vec<String> {
    let (mut state, mut leases, mut held, mut texts) = (State::default(), 0_usize, [0_usize; 2], Vec::new());
    for &call in calls {
        let (reply, mut after) = state.call(call, None);
        let worker = call.worker();
        if let (Some(worker), Reply::Granted(_)) = (worker, reply) {
            held[worker] = leases;
            leases += 1;
        }
        texts.extend(call.text(worker.map_or(0, |worker| (leases - held[worker]).saturating_sub(1))));
        after.simplify();
        state = after;
    }
    texts
}

#[test]
fn every_transition_keeps_the_contract() {
    let (found, transitions) = explore(None).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{} states, {transitions} transitions", found.states.len());
    assert!(found.states.len() > 1000, "only {} states", found.states.len());
}

#[test]
fn each_flaw_breaks_a_rule() {
    let mut missed = Vec::new();
    for flaw in FLAWS {
        match explore(Some(flaw)) {
            Err(broken) => println!("{flaw:?}: {broken}"),
            Ok(_) => missed.push(flaw),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// With `BLESS_TRACES=1`, writes the file anew.
#[test]
fn the_traces_are_those_of_this_state_machine() {
    let (found, _) = explore(None).unwrap_or_else(|broken| panic!("{broken}"));
    let traces = traces(&found);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/inbox/transition/exploration/traces.txt");
    if std::env::var_os("BLESS_TRACES").is_some() {
        std::fs::write(file, &traces).unwrap_or_else(|error| panic!("{file}: {error}"));
    } else {
        assert!(traces == TRACES, "{file} is of an earlier state machine: run this test with BLESS_TRACES=1");
    }
}
