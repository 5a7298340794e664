//! The queue against one that looks at everybody each time, and its rules one by one.

use std::num::NonZeroU16;

use super::tenants::MAX_IDLE;
use super::*;

fn share(tenant: &str, weight: u16) -> Share {
    Share { tenant: tenant.into(), weight: NonZeroU16::new(weight).unwrap() }
}

/// Takes the head out and ends it; who it was.
fn serve(queue: &mut Queue, waiting: &mut Vec<(u64, Place)>, cost: u64) -> u64 {
    let head = queue.head().unwrap().0;
    let at = waiting.iter().position(|(id, _)| *id == head).unwrap();
    let (_, place) = waiting.remove(at);
    queue.admit(place);
    if let Place::New { tenant, .. } = place {
        queue.charge(tenant, cost);
        queue.leave(tenant);
    }
    head
}

/// Lets a sequence of a tenant wait; its arrival is its name.
fn wait(
    queue: &mut Queue,
    waiting: &mut Vec<(u64, Place)>,
    (share, priority, arrival): (Option<&Share>, i32, u64),
) {
    let tenant = queue.join(share);
    let place = Place::New { tenant, priority, arrival };
    queue.push(place, SeqId(arrival));
    waiting.push((arrival, place));
}

#[test]
fn priority_then_arrival_and_preempted_ones_before_all() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    for (priority, arrival) in [(1, 0), (0, 1), (0, 2)] {
        wait(&mut queue, &mut waiting, (None, priority, arrival));
    }
    for ticket in [5, 4] {
        let place = Place::Preempted { ticket };
        queue.push(place, SeqId(ticket));
        waiting.push((ticket, place));
    }
    let order: Vec<_> = (0..5).map(|_| serve(&mut queue, &mut waiting, 1)).collect();
    assert_eq!(order, [4, 5, 1, 2, 0]);
    assert_eq!((queue.head(), queue.len(), queue.num_tenants()), (None, 0, 0));
}

#[test]
fn the_oldest_is_overtaken_a_bounded_number_of_times() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    wait(&mut queue, &mut waiting, (None, i32::MAX, 0));
    for arrival in 1..=MAX_OVERTAKEN as u64 {
        wait(&mut queue, &mut waiting, (None, i32::MIN, arrival));
        assert_eq!(serve(&mut queue, &mut waiting, 1), arrival);
    }
    wait(&mut queue, &mut waiting, (None, i32::MIN, 99));
    assert_eq!(serve(&mut queue, &mut waiting, 1), 0);
    wait(&mut queue, &mut waiting, (None, i32::MIN, 100));
    wait(&mut queue, &mut waiting, (None, i32::MAX, 98));
    assert_eq!(serve(&mut queue, &mut waiting, 1), 99, "the next can be overtaken as often");
}

#[test]
fn urgent_tenants_pass_over_the_one_served_least_a_bounded_number_of_times() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    for arrival in 0..3 {
        wait(&mut queue, &mut waiting, (Some(&share("patient", 1)), 5, arrival));
    }
    let mut turns = Vec::new();
    for arrival in 3..30 {
        let urgent = share(["x", "y", "z"][arrival as usize % 3], 1);
        wait(&mut queue, &mut waiting, (Some(&urgent), -1, arrival));
        turns.push(serve(&mut queue, &mut waiting, 10));
    }
    let patient: Vec<_> = (0..turns.len()).filter(|turn| turns[*turn] < 3).collect();
    assert_eq!(patient, [8, 17, 26]);
}

#[test]
fn the_one_that_was_served_least_for_its_weight_is_next() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    let shares = [share("one", 1), share("three", 3)];
    for arrival in 0..40 {
        wait(&mut queue, &mut waiting, (Some(&shares[arrival as usize % 2]), 0, arrival));
    }
    let order: Vec<_> = (0..16).map(|_| serve(&mut queue, &mut waiting, 10) % 2).collect();
    assert_eq!(order, [0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1]);
}

#[test]
fn nobody_saves_up_by_not_asking_and_nobody_pays_for_having_been_alone() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    let (busy, idle) = (share("busy", 1), share("idle", 1));
    // This one runs all the time, so that nobody is forgotten.
    let running = queue.join(None);
    for arrival in 0..100 {
        wait(&mut queue, &mut waiting, (Some(&busy), 0, arrival));
    }
    for arrival in 0..50 {
        assert_eq!(serve(&mut queue, &mut waiting, 7), arrival);
    }
    for arrival in 100..200 {
        wait(&mut queue, &mut waiting, (Some(&idle), 0, arrival));
    }
    let turns: Vec<_> = (0..20).map(|_| serve(&mut queue, &mut waiting, 7) >= 100).collect();
    assert_eq!(turns, [false, true].repeat(10), "they take turns from here on");
    queue.leave(running);
}

#[test]
fn a_choice_that_waits_for_blocks_is_overtaken_only_by_the_more_urgent() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    let (first, other) = (share("first", 1), share("other", 1));
    wait(&mut queue, &mut waiting, (Some(&first), 0, 0));
    wait(&mut queue, &mut waiting, (Some(&other), 0, 1));
    assert_eq!(queue.head(), Some(SeqId(0)));
    // Its running sequences go on meanwhile.
    let Place::New { tenant, .. } = waiting[0].1 else { unreachable!() };
    queue.charge(tenant, 1000);
    assert_eq!(queue.head(), Some(SeqId(0)));
    wait(&mut queue, &mut waiting, (Some(&other), -1, 2));
    assert_eq!(queue.head(), Some(SeqId(2)));
}

#[test]
fn tenants_are_forgotten_once_they_are_no_longer_ahead() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    let mut arrival = 0;
    let mut come = |queue: &mut Queue, waiting: &mut Vec<_>, name: &str, cost| {
        wait(queue, waiting, (Some(&share(name, 1)), 0, arrival));
        arrival += 1;
        serve(queue, waiting, cost)
    };
    let running = queue.join(Some(&share("runs", 1)));
    come(&mut queue, &mut waiting, "a", 100);
    assert_eq!(queue.num_tenants(), 1, "the last who waited is not ahead");
    wait(&mut queue, &mut waiting, (Some(&share("waits", 1)), 9, 999));
    for number in 0..10 {
        come(&mut queue, &mut waiting, &format!("b{number}"), 5);
    }
    queue.check_invariants(|tenant| usize::from(tenant == running || tenant.0 == 1));
    // Nine went before the patient one, which moved the level up: who came later is not ahead.
    let num_tenants = queue.num_tenants();
    assert!((2..=12).contains(&num_tenants), "{num_tenants}");
    queue.leave(running);
    while !waiting.is_empty() {
        serve(&mut queue, &mut waiting, 1);
    }
    assert_eq!(queue.num_tenants(), 0);
}

#[test]
fn an_endless_row_of_tenants_is_not_remembered() {
    let (mut queue, mut waiting) = (Queue::default(), Vec::new());
    let name = |number: u64| share(&number.to_string(), 1);
    wait(&mut queue, &mut waiting, (Some(&name(0)), 0, 0));
    for number in 1..3 * MAX_IDLE as u64 {
        // There is always one that was served nothing yet: the level does not rise.
        wait(&mut queue, &mut waiting, (Some(&name(number)), 0, number));
        serve(&mut queue, &mut waiting, 1);
        assert!(queue.num_tenants() <= MAX_IDLE + 2);
    }
    assert!(queue.num_tenants() > MAX_IDLE, "the bound is reached");
}

/// A tenant of the reference.
#[derive(Debug, Clone)]
struct Plain {
    name: Option<u64>,
    weight: u64,
    /// In quarters: weights are 1, 2 and 4 here.
    counter: u64,
    num_live: usize,
    num_overtaken: usize,
    /// (priority, arrival)
    waiting: Vec<(i32, u64)>,
}

/// The rules in the plainest words: it forgets nobody and looks at everybody.
#[derive(Debug, Default)]
struct Reference {
    tenants: Vec<Plain>,
    num_overtaken: usize,
    choice: Option<(usize, i32, u64, bool)>,
    last: Option<usize>,
}

impl Reference {
    fn level(&self) -> u64 {
        let waiting = self.tenants.iter().filter(|tenant| !tenant.waiting.is_empty());
        let least = waiting.map(|tenant| tenant.counter).min();
        least.or(self.last.map(|last| self.tenants[last].counter)).unwrap_or(0)
    }

    fn tenant(&mut self, name: Option<u64>, weight: u64) -> usize {
        let known = self.tenants.iter().position(|tenant| tenant.name == name);
        let at = known.unwrap_or_else(|| {
            let waiting = Vec::new();
            let plain = Plain { name, weight, counter: 0, num_live: 0, num_overtaken: 0, waiting };
            self.tenants.push(plain);
            self.tenants.len() - 1
        });
        self.tenants[at].weight = weight;
        self.tenants[at].num_live += 1;
        at
    }

    fn push(&mut self, at: usize, priority: i32, arrival: u64) {
        if self.tenants[at].waiting.is_empty() {
            self.tenants[at].counter = self.tenants[at].counter.max(self.level());
        }
        self.tenants[at].waiting.push((priority, arrival));
        self.choice = self.choice.filter(|choice| priority >= choice.1);
    }

    fn remove(&mut self, at: usize, arrival: u64) {
        self.tenants[at].waiting.retain(|waiting| waiting.1 != arrival);
        if self.tenants[at].waiting.is_empty() {
            self.tenants[at].num_overtaken = 0;
            self.last = Some(at);
        }
        self.choice = self.choice.filter(|choice| choice.2 != arrival);
    }

    fn leave(&mut self, at: usize) {
        self.tenants[at].num_live -= 1;
        if self.tenants.iter().all(|tenant| tenant.num_live == 0) {
            *self = Self::default();
        }
    }

    fn head(&mut self) -> Option<u64> {
        if self.choice.is_none() {
            let oldest = |at: usize| self.tenants[at].waiting.iter().map(|waiting| waiting.1).min();
            let urgency =
                |at: usize| self.tenants[at].waiting.iter().map(|waiting| waiting.0).min();
            let counter = |at: usize| self.tenants[at].counter;
            let all = || (0..self.tenants.len()).filter(|at| urgency(*at).is_some());
            let entitled = all().min_by_key(|at| (counter(*at), oldest(*at)))?;
            let urgent = all().min_by_key(|at| (urgency(*at), counter(*at), oldest(*at)))?;
            let at = if self.num_overtaken < MAX_OVERTAKEN { urgent } else { entitled };
            let tenant = &self.tenants[at];
            let by_arrival = tenant.num_overtaken >= MAX_OVERTAKEN;
            let order = |(priority, arrival): &(i32, u64)| {
                if by_arrival { (0, *arrival) } else { (*priority, *arrival) }
            };
            let (priority, arrival) =
                *tenant.waiting.iter().min_by_key(|waiting| order(waiting))?;
            self.choice = Some((at, priority, arrival, at == entitled));
        }
        self.choice.map(|choice| choice.2)
    }

    fn admit(&mut self) -> usize {
        let (at, _, arrival, is_entitled) = self.choice.unwrap();
        self.num_overtaken = if is_entitled { 0 } else { self.num_overtaken + 1 };
        let tenant = &mut self.tenants[at];
        let is_oldest = tenant.waiting.iter().all(|waiting| waiting.1 >= arrival);
        tenant.num_overtaken = if is_oldest { 0 } else { tenant.num_overtaken + 1 };
        self.remove(at, arrival);
        at
    }
}

/// SplitMix64's finaliser (Steele et al. 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The queue and the reference, which are told the same.
#[derive(Default)]
struct Pair {
    queue: Queue,
    reference: Reference,
    waiting: Vec<(u64, Place, usize)>,
    running: Vec<(TenantId, usize)>,
    num_passed_over: usize,
    num_forgotten: usize,
    num_started_anew: usize,
}

impl Pair {
    fn arrive(&mut self, number: u64, priority: i32, arrival: u64) {
        let name = (number > 0).then_some(number);
        let weight = if number == 0 { 1 } else { 1 << (number % 3) };
        let share = name.map(|name| share(&name.to_string(), weight as u16));
        let tenant = self.queue.join(share.as_ref());
        let place = Place::New { tenant, priority, arrival };
        self.queue.push(place, SeqId(arrival));
        let at = self.reference.tenant(name, weight);
        self.reference.push(at, priority, arrival);
        self.waiting.push((arrival, place, at));
    }

    fn abort(&mut self, index: usize) {
        let (arrival, place, at) = self.waiting.remove(index);
        self.queue.remove(place);
        self.reference.remove(at, arrival);
        let Place::New { tenant, .. } = place else { unreachable!() };
        self.leave(tenant, at);
    }

    fn charge(&mut self, index: usize, cost: u64) {
        let (tenant, at) = self.running[index];
        self.queue.charge(tenant, cost);
        let plain = &mut self.reference.tenants[at];
        plain.counter += cost * 4 / plain.weight;
    }

    fn end(&mut self, index: usize) {
        let (tenant, at) = self.running.swap_remove(index);
        self.leave(tenant, at);
    }

    fn leave(&mut self, tenant: TenantId, at: usize) {
        self.queue.leave(tenant);
        self.reference.leave(at);
        self.num_started_anew += usize::from(self.reference.tenants.is_empty());
        let is_less = self.queue.num_tenants() < self.reference.tenants.len();
        self.num_forgotten += usize::from(is_less);
    }

    fn admit(&mut self) {
        let head = self.queue.head().unwrap();
        let at = self.waiting.iter().position(|waiting| waiting.0 == head.0).unwrap();
        let (_, place, plain) = self.waiting.remove(at);
        self.queue.admit(place);
        assert_eq!(self.reference.admit(), plain);
        self.num_passed_over += usize::from(self.reference.num_overtaken > 0);
        let Place::New { tenant, .. } = place else { unreachable!() };
        self.running.push((tenant, plain));
    }

    fn check(&mut self, seed: u64) {
        assert_eq!(self.queue.head().map(|id| id.0), self.reference.head(), "seed {seed}");
        assert_eq!(self.queue.len(), self.waiting.len());
        let live = |tenant| {
            let of = |place| matches!(place, Place::New { tenant: of, .. } if of == tenant);
            let waiting = self.waiting.iter().filter(|waiting| of(waiting.1)).count();
            waiting + self.running.iter().filter(|running| running.0 == tenant).count()
        };
        self.queue.check_invariants(live);
    }
}

#[test]
fn it_chooses_as_one_that_looks_at_everybody() {
    let mut counts = [0; 3];
    for seed in 0..1000_u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state.wrapping_add(1);
            mix(state ^ (seed << 32)) as usize % bound
        };
        let mut pair = Pair::default();
        for arrival in 0..300 {
            let (num_waiting, num_running) = (pair.waiting.len(), pair.running.len());
            match below(8) {
                0..=2 => pair.arrive(below(5) as u64, [0, 0, 0, -1, 4][below(5)], arrival),
                3 if num_waiting > 0 => pair.abort(below(num_waiting)),
                4 | 5 if num_running > 0 => pair.charge(below(num_running), below(50) as u64),
                6 if num_running > 0 => pair.end(below(num_running)),
                _ if num_waiting > 0 => pair.admit(),
                _ => {}
            }
            pair.check(seed);
        }
        counts[0] += pair.num_passed_over;
        counts[1] += pair.num_forgotten;
        counts[2] += pair.num_started_anew;
    }
    assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
}
