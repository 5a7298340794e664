//! The loop: drain commands, schedule, run, commit, emit. One thread owns all of it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, mem, thread};

use scheduler::{Outcome, Plan, Scheduler, SeqId, Tokens};

use crate::backlog::Left;
use crate::ceilings::Costs;
use crate::handle::{Phase, Shared};
use crate::recovery::{Faults, Reload};
use crate::request::{EngineError, Event, Request};
use crate::runner::StepRunner;
use crate::sequence::{Progress, Sequence};
use crate::speculation::Speculation;
use crate::step::{Launched, StepOutput};

/// The engine thread's state. Callers hold an [`EngineHandle`](crate::EngineHandle).
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) scheduler: Scheduler,
    pub(crate) runner: Box<dyn StepRunner>,
    pub(crate) speculation: Speculation,
    /// Taken from the mailbox, not yet looked at.
    pub(crate) arrived: VecDeque<(SeqId, Request)>,
    pub(crate) aborted: Vec<SeqId>,
    /// All that were accepted and have not had their last event.
    pub(crate) sequences: HashMap<SeqId, Sequence>,
    /// Deadlines of those that have not run, the next one first.
    pub(crate) deadlines: BTreeSet<(Instant, SeqId)>,
    /// Sequences that started or ended since the queue's length was last published.
    pub(crate) left_queue: Vec<Left>,
    /// Whether a step is asked for before the one before it has been read.
    pub(crate) runs_ahead: bool,
    /// The step that has been asked for and not read.
    pub(crate) flight: Option<Flight>,
    /// Whom the engine is at work on, and may have left half done if it panics; empty while it is
    /// at work on nobody or on all.
    pub(crate) at_hand: Vec<SeqId>,
    /// Of its steps, if they are to be counted.
    pub(crate) costs: Option<Costs>,
    pub(crate) faults: Faults,
    pub(crate) reload: Option<Reload>,
}

/// A step that the device computes.
pub(crate) struct Flight {
    plan: Plan,
    launched: Launched,
}

impl Engine {
    /// Until told to end; without sequences it sleeps in [`Shared::take`]. An error is the reason
    /// why there is no point in going on.
    pub(crate) fn serve(&mut self) -> Result<(), String> {
        loop {
            let commands = self.shared.take(self.is_empty() && self.flight.is_none());
            self.arrived.extend(commands.submitted);
            self.aborted.extend(commands.aborted);
            self.apply();
            let phase = commands.phase;
            if phase >= Phase::Stopping || phase == Phase::Draining && self.is_empty() {
                return Ok(());
            }
            self.step()?;
            self.publish();
            if !self.runs_ahead {
                // It computes on the cores that send what it has just emitted, and would otherwise keep
                // them for milliseconds.
                thread::yield_now();
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.sequences.is_empty() && self.arrived.is_empty()
    }

    fn apply(&mut self) {
        while let Some((id, request)) = self.arrived.pop_front() {
            let sequence = Sequence::new(request, &self.shared.limits, &self.shared.eos_token_ids);
            self.deadlines.extend(sequence.deadline.map(|deadline| (deadline, id)));
            self.sequences.insert(id, sequence);
            self.enqueue(id);
        }
        while let Some(id) = self.aborted.pop() {
            self.at_hand.push(id);
            self.abort(id);
            self.at_hand.clear();
        }
    }

    /// Hands a sequence to the scheduler.
    pub(crate) fn enqueue(&mut self, id: SeqId) {
        self.at_hand.push(id);
        let submitted = self.scheduler.submit(self.sequences[&id].to_schedule(id));
        if let Err(error) = submitted {
            self.fail(&[id], &EngineError::Rejected(error.to_string()));
        }
        self.at_hand.clear();
    }

    fn abort(&mut self, id: SeqId) {
        if self.remove(id).is_some() {
            self.scheduler.abort(id);
            self.shared.counters.aborted.add(1);
        }
    }

    /// Drops those that wait past their deadline.
    fn expire(&mut self) {
        let Some(&(next, _)) = self.deadlines.first() else { return };
        let now = Instant::now();
        if now < next {
            return;
        }
        let mut expired = Vec::new();
        while let Some(&(_, id)) = self.deadlines.first().filter(|(deadline, _)| *deadline <= now) {
            self.deadlines.pop_first();
            self.scheduler.abort(id);
            expired.push(id);
        }
        self.shared.counters.expired.add(expired.len());
        self.at_hand.extend(&expired);
        self.fail(&expired, &EngineError::DeadlineExceeded);
        self.at_hand.clear();
    }

    /// Asks for one step and reads one: the same, or the one before, which the device has computed
    /// meanwhile. Then it computes the next while the host settles, plans and emits.
    ///
    /// A panic on the way is caught in [`run`](Self::run).
    fn step(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        if self.speculation.is_due() {
            self.land()?;
        }
        // Waiting for the device is not planning.
        let planning = Instant::now();
        let plan = self.plan();
        self.shared.counters.schedule_ns.add_since(planning);
        match plan {
            Some(plan) => self.ask_for(plan)?,
            None => self.land()?,
        }
        self.shared.counters.step_ns.add_since(begun);
        Ok(())
    }

    /// Asks for a step, lands the one before and, unless the device works ahead, the step itself.
    fn ask_for(&mut self, plan: Plan) -> Result<(), String> {
        self.work_on(&plan);
        self.begin(&plan);
        let before = self.flight.as_ref().map(|flight| (&flight.plan, &flight.launched));
        let launched = self.runner.launch(&plan, &self.sequences, before);
        self.land()?;
        self.sample(plan, launched)?;
        if !self.runs_ahead {
            self.land()?;
        }
        self.at_hand.clear();
        Ok(())
    }

    fn work_on(&mut self, plan: &Plan) {
        self.at_hand.clear();
        self.at_hand.extend(plan.entries.iter().map(|entry| entry.id));
    }

    fn plan(&mut self) -> Option<Plan> {
        self.expire();
        let in_flight = self.flight.is_some();
        self.speculation.propose(&mut self.sequences, &mut self.scheduler, in_flight);
        let plan = self.scheduler.schedule();
        let can_wait = self.sequences.is_empty() || in_flight;
        assert!(plan.is_some() || can_wait, "sequences wait but none can run");
        plan
    }

    /// Asks for the tokens of a step; all before it have landed.
    fn sample(
        &mut self,
        plan: Plan,
        launched: candle_core::Result<Launched>,
    ) -> Result<(), String> {
        self.work_on(&plan);
        let sampled = launched.and_then(|mut launched| {
            self.runner.sample(&plan, &mut launched, &self.sequences)?;
            Ok(launched)
        });
        match sampled {
            Ok(launched) => {
                let is_pending = launched.is_pending();
                self.flight = Some(Flight { plan, launched });
                if is_pending { Ok(()) } else { self.land() }
            }
            Err(error) => self.fail_step(&plan, &error),
        }
    }

    /// Waits for the step in flight, if there is one, and takes in what it gave.
    fn land(&mut self) -> Result<(), String> {
        let Some(Flight { plan, launched }) = self.flight.take() else { return Ok(()) };
        self.work_on(&plan);
        match self.runner.read(&plan, launched) {
            Ok(output) => self.settle(&plan, output),
            Err(error) => self.fail_step(&plan, &error)?,
        }
        self.at_hand.clear();
        Ok(())
    }

    /// Counts the step and lets those that run for the first time out of the queue.
    fn begin(&mut self, plan: &Plan) {
        let counters = &self.shared.counters;
        counters.begin_step(plan.num_tokens);
        if let Some(costs) = &self.costs {
            let each = plan.entries.iter().map(|entry| (entry.len, entry.start + entry.len));
            counters.add_work(costs.of_step(each));
        }
        counters.preemptions.add(plan.preempted.len());
        for id in &plan.preempted {
            self.runner.forget(*id);
            if let Some(sequence) = self.sequences.get_mut(id) {
                sequence.num_preemptions += 1;
            }
        }
        for entry in &plan.entries {
            let sequence = live(&mut self.sequences, entry.id);
            if !mem::replace(&mut sequence.started, true) {
                sequence.cached_tokens = entry.cached_tokens;
                if let Some(deadline) = sequence.deadline {
                    self.deadlines.remove(&(deadline, entry.id));
                }
                self.left_queue.push(sequence.left_queue(true));
                // Whether anybody listens shows with what comes next.
                sequence.emit(Event::Started { cached_tokens: entry.cached_tokens });
                counters.prompt_tokens.add(sequence.prompt_len());
                counters.cached_prompt_tokens.add(entry.cached_tokens);
                if self.scheduler.limits().enable_prefix_caching && !sequence.scores_prompt() {
                    counters.prefix_queries.add(sequence.prompt_len());
                }
            }
        }
        self.publish();
    }

    /// Commits what a step gave, then tells the sequences, so that whoever hears of an end sees it
    /// in the counters, too.
    fn settle(&mut self, plan: &Plan, output: StepOutput) {
        self.speculation.record(plan, &output);
        let counters = &self.shared.counters;
        counters.forward_ns.add_time(output.forward);
        counters.sample_ns.add_time(output.sample);
        counters.guess_ns.add_time(output.guess);
        let mut outcomes = Vec::with_capacity(plan.entries.len());
        let mut messages = Vec::with_capacity(plan.entries.len());
        let (mut num_generated, mut num_finished, mut num_failed) = (0, 0, 0);
        for (entry, given) in plan.entries.iter().zip(output.entries) {
            let Some(sequence) = self.sequences.get_mut(&entry.id) else {
                // It ended while the step was in flight: the scheduler looks only at the id.
                outcomes.push(Outcome { id: entry.id, tokens: Tokens::default(), finished: true });
                continue;
            };
            let num_drafts = given.drafts.len();
            let progress = sequence.advance(entry, given);
            let num_right = progress.num_right_drafts;
            counters.checked_drafts(sequence.draft_source(), num_drafts, num_right);
            num_failed += usize::from(progress.has_failed());
            num_generated += progress.tokens.len();
            num_finished += usize::from(progress.finished);
            let Progress { tokens, events, finished, .. } = progress;
            outcomes.push(Outcome { id: entry.id, tokens: tokens.into(), finished });
            messages.push((entry.id, events, finished));
        }
        let begun = Instant::now();
        let ended = self.scheduler.commit(plan, &outcomes);
        assert_eq!(ended.len(), num_finished, "scheduler and engine agree on who has ended");
        counters.schedule_ns.add_since(begun);
        counters.generated_tokens.add(num_generated);
        counters.finished.add(num_finished - num_failed);
        counters.failed.add(num_failed);
        self.publish();
        for (id, events, finished) in messages {
            self.emit(id, events, finished);
        }
        self.faults.succeeded();
    }

    fn emit(&mut self, id: SeqId, events: Vec<Event>, finished: bool) {
        let sequence = live(&mut self.sequences, id);
        let listens = events.into_iter().all(|event| sequence.emit(event));
        if finished {
            self.remove(id);
        } else if !listens {
            self.abort(id);
        }
    }

    /// The last event of sequences that the scheduler no longer knows.
    pub(crate) fn fail(&mut self, ids: &[SeqId], error: &EngineError) {
        self.publish();
        for id in ids {
            if let Some(mut sequence) = self.remove(*id) {
                self.shared.counters.failed.add(1);
                sequence.emit(Event::Failed(error.clone()));
            }
        }
    }

    fn remove(&mut self, id: SeqId) -> Option<Sequence> {
        let sequence = self.sequences.remove(&id)?;
        self.runner.forget(id);
        if !sequence.started {
            if let Some(deadline) = sequence.deadline {
                self.deadlines.remove(&(deadline, id));
            }
            self.left_queue.push(sequence.left_queue(false));
        }
        Some(sequence)
    }

    /// Sets the gauges and frees places in the queue.
    pub(crate) fn publish(&mut self) {
        let stats = self.scheduler.stats();
        let counters = &self.shared.counters;
        counters.num_running.set(stats.running);
        counters.kv_blocks_used.set(stats.used_blocks);
        counters.kv_blocks_total.set(stats.total_blocks);
        self.shared.leave_queue(mem::take(&mut self.left_queue), stats.waiting);
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

fn live(sequences: &mut HashMap<SeqId, Sequence>, id: SeqId) -> &mut Sequence {
    sequences.get_mut(&id).expect("the scheduler plans only sequences that are alive")
}
