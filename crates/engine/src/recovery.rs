//! After a fault: a step that gives an error, or a panic anywhere on the engine thread.
//!
//! The thread outlives its panics. Whom it was at work on ends with an error, all others begin
//! anew: with an empty scheduler, the weights as they are, and the cache's memory. If the device
//! does not come along, the models are loaded again. An engine that only fails gives up, and so does one
//! whose device no longer answers.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use scheduler::{Plan, Scheduler, SeqId};

use crate::backlog::Left;
use crate::device::without_backtrace;
use crate::engine::Engine;
use crate::handle::Phase;
use crate::ranks::Models;
use crate::request::{EngineError, Event};
use crate::sequence::Sequence;

/// Loads what each rank has once more; the text says why it cannot.
pub type Reload = Box<dyn FnMut() -> Result<Vec<Models>, String> + Send>;

/// Faults older than this are forgotten.
const WINDOW: Duration = Duration::from_mins(1);
/// So many without a whole step in between are the engine's own: whatever it is asked, it fails.
const MAX_IN_A_ROW: usize = 5;
/// So many in the window leave nobody in peace, though some steps succeed.
const MAX_IN_WINDOW: usize = 20;
/// A request may wait through so many faults of unknown cause; at the next it counts as the cause.
const MAX_WAITED_THROUGH: usize = 2;

/// Faults of late.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    times: VecDeque<Instant>,
    num_in_a_row: usize,
}

impl Faults {
    /// A whole step.
    pub(crate) fn succeeded(&mut self) {
        self.num_in_a_row = 0;
    }

    /// One more; an error if it is one too many.
    fn record(&mut self, what: &str, now: Instant) -> Result<(), String> {
        self.times.push_back(now);
        self.times.retain(|time| now.saturating_duration_since(*time) < WINDOW);
        self.num_in_a_row = (self.num_in_a_row + 1).min(self.times.len());
        if self.num_in_a_row >= MAX_IN_A_ROW {
            return Err(format!(
                "it failed {MAX_IN_A_ROW} times without a step that succeeded: {what}"
            ));
        }
        if self.times.len() >= MAX_IN_WINDOW {
            let seconds = WINDOW.as_secs();
            return Err(format!("it failed {MAX_IN_WINDOW} times within {seconds} s: {what}"));
        }
        Ok(())
    }
}

impl Engine {
    /// The thread: serves until told to end or until there is no point in going on.
    pub(crate) fn run(mut self) {
        let mut fault: Option<String> = None;
        loop {
            let served = guarded(|| {
                if let Some(panic) = &fault {
                    self.recover(panic)?;
                }
                self.serve()
            });
            let going_on = match served {
                Ok(Ok(())) => return,
                Ok(Err(reason)) => Err(reason),
                Err(panic) => {
                    tracing::error!("the engine failed: {panic}");
                    let going_on = self.faults.record(&panic, Instant::now());
                    fault = Some(panic);
                    going_on
                }
            };
            if let Err(reason) = going_on {
                return self.give_up(reason);
            }
        }
    }

    /// Whom the last fault took with it hears why, the others that the engine has stopped.
    fn give_up(mut self, reason: String) {
        tracing::error!("the engine ends: {reason}");
        let lost = self.lost();
        // If that panics, too, they hear what the others do.
        drop(guarded(|| self.fail(&lost, &EngineError::Step(reason.clone()))));
        self.shared.set_fault(reason);
    }

    /// Ends the sequences of a step that gave an error; an error if there were too many such, or there
    /// is no use in another.
    pub(crate) fn fail_step(
        &mut self,
        plan: &Plan,
        error: &candle_core::Error,
    ) -> Result<(), String> {
        let message = without_backtrace(error);
        self.scheduler.fail(plan);
        let ids = self.at_hand.clone();
        tracing::error!(sequences = ids.len(), "a step failed: {message}");
        self.shared.counters.failed_steps.add(1);
        self.fail(&ids, &EngineError::Step(message.clone()));
        if let Err(error) = self.runner.check_device() {
            return Err(format!("the device no longer answers: {}", without_backtrace(&error)));
        }
        self.faults.record(&message, Instant::now())
    }

    /// After a panic nothing is known but the weights and what each sequence has. Those at hand
    /// fail, and all others begin anew with an empty cache, keeping the tokens they have.
    fn recover(&mut self, panic: &str) -> Result<(), String> {
        let begun = Instant::now();
        self.shared.set_restarting(true);
        self.shared.counters.restarts.add(1);
        self.flight = None;
        self.clear_scheduler();
        self.speculation.reset();
        let lost = self.lost();
        self.fail(&lost, &EngineError::Step(panic.to_owned()));
        if let Err(error) = self.runner.reset() {
            self.reload(&without_backtrace(&error))?;
        }
        self.at_hand.clear();
        self.requeue();
        self.shared.set_restarting(false);
        let (failed, waiting) = (lost.len(), self.sequences.len());
        tracing::info!(failed, waiting, "the engine goes on after {:?}", begun.elapsed());
        Ok(())
    }

    /// Whom the fault takes with it. If the engine was at work on nobody or on all, that is whoever
    /// had begun, and who has waited through too many of these: one of them may be the cause.
    fn lost(&mut self) -> Vec<SeqId> {
        if !self.at_hand.is_empty() {
            return self.at_hand.clone();
        }
        let mut lost = Vec::new();
        for (id, sequence) in &mut self.sequences {
            sequence.num_faults += 1;
            if sequence.started || sequence.num_faults > MAX_WAITED_THROUGH {
                lost.push(*id);
            }
        }
        lost
    }

    fn reload(&mut self, error: &str) -> Result<(), String> {
        let Some(load) = &mut self.reload else {
            return Err(format!("it cannot begin anew: {error}"));
        };
        tracing::error!("the weights are loaded again: {error}");
        // Memory has no room for two models.
        self.runner.unload();
        let loaded = load().and_then(|models| {
            self.runner.install(&mut models.into_iter());
            self.runner
                .reset()
                .map_err(|error| format!("the device: {}", without_backtrace(&error)))
        });
        loaded.map_err(|error| format!("it cannot begin anew: {error}"))
    }

    /// Puts all sequences into the empty scheduler, in the order of their arrival.
    fn requeue(&mut self) {
        self.left_queue.clear();
        let waiting = self.sequences.values().filter(|sequence| !sequence.started);
        let waiting = waiting.map(|sequence| sequence.left_queue(false));
        let arrived = self.arrived.iter().map(|(_, request)| Left::waiting(request));
        self.shared.recount(waiting.chain(arrived));
        let deadline = |(id, sequence): (&SeqId, &Sequence)| Some((sequence.deadline?, *id));
        let waiting = self.sequences.iter().filter(|(_, sequence)| !sequence.started);
        self.deadlines = waiting.filter_map(deadline).collect();
        let mut ids: Vec<_> = self.sequences.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.enqueue(id);
        }
        self.publish();
    }

    fn clear_scheduler(&mut self) {
        self.scheduler = Scheduler::new(*self.scheduler.limits()).expect("they were valid before");
    }
}

impl Drop for Engine {
    /// However the thread ends, every request hears of it.
    fn drop(&mut self) {
        self.shared.enter(Phase::Ended);
        self.arrived.extend(self.shared.take(false).submitted);
        for (_, mut request) in self.arrived.drain(..) {
            // The receiver may be gone; either way this was its last event.
            let _ = guarded(|| (request.sink)(Event::Failed(EngineError::Stopped)));
        }
        self.clear_scheduler();
        let everyone: Vec<_> = self.sequences.keys().copied().collect();
        self.fail(&everyone, &EngineError::Stopped);
    }
}

/// Turns a panic into its message.
fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| message_of(panic.as_ref()))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without a message"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::Receiver;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::config::{EngineConfig, EngineOptions};
    use crate::memory::MemoryPlan;
    use crate::model::{CausalLm, ForwardBatch, KvCache, ModelSpec};
    use crate::resident::Resident;
    use crate::runner::{Runner, StepRunner};
    use crate::speculation::Speculation;
    use crate::step::Launched;
    use crate::testing::request;

    /// Says that everything is equally likely.
    struct Even;

    impl CausalLm for Even {
        fn forward(&self, batch: &ForwardBatch, _: &KvCache) -> candle_core::Result<Tensor> {
            Tensor::zeros((batch.logits_rows.dim(0)?, 8), DType::F32, &Device::Cpu)
        }

        fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> candle_core::Result<Tensor> {
            self.forward(batch, cache)
        }
    }

    /// Whose context is lost, as after an illegal address on a GPU.
    struct LostDevice;

    impl StepRunner for LostDevice {
        fn launch(
            &mut self,
            _: &Plan,
            _: &HashMap<SeqId, Sequence>,
            _: Option<(&Plan, &Launched)>,
        ) -> candle_core::Result<Launched> {
            candle_core::bail!("illegal address")
        }

        fn check_device(&self) -> candle_core::Result<()> {
            candle_core::bail!("illegal address, still")
        }

        fn reset(&mut self) -> candle_core::Result<()> {
            unreachable!("nothing has panicked")
        }

        fn unload(&mut self) {
            unreachable!("nothing has panicked")
        }

        fn install(&mut self, _: &mut dyn Iterator<Item = Models>) {
            unreachable!("nothing has panicked")
        }
    }

    /// Whose model is gone, as after a reload that did not come to its end.
    fn engine_without_model(reload: Option<Reload>) -> Engine {
        let mut engine = engine_with(|spec, plan| {
            let resident = Resident::new(Box::new(Even), spec, plan, &Device::Cpu).unwrap();
            let mut runner = Runner::new(resident, spec.vocab_size, None).unwrap();
            runner.resident.unload();
            Box::new(runner)
        });
        engine.reload = reload;
        engine
    }

    fn engine_with(runner: impl FnOnce(&ModelSpec, &MemoryPlan) -> Box<dyn StepRunner>) -> Engine {
        let spec = ModelSpec {
            architecture: "EvenForCausalLM".into(),
            num_layers: 1,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 1,
            hidden_size: 1,
            intermediate_size: 1,
            vocab_size: 8,
            max_position_embeddings: 32,
            num_parameters: 1,
            num_gathered: 0,
            window: None,
            experts: None,
            num_rotary_tables: 1,
            fits_f16: true,
            dtype: DType::F32,
            quantized: None,
        };
        let options = EngineOptions {
            num_gpu_blocks_override: Some(8),
            max_num_seqs: Some(1),
            ..EngineOptions::default()
        };
        let config = EngineConfig::resolve(&options, &spec).unwrap();
        let plan = MemoryPlan::compute(&spec, &config, 1 << 30);
        let runner = (runner(&spec, &plan), false);
        Engine::with(runner, Speculation::new(&config, false), &spec, &plan, &[]).unwrap()
    }

    fn last(events: &Receiver<Event>) -> Event {
        events.iter().last().unwrap()
    }

    /// The one that runs fails, the one that waits is answered by the model that is loaded again, at
    /// the second try.
    #[test]
    fn a_model_that_is_lost_is_loaded_again() {
        let num_loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&num_loads);
        let engine = engine_without_model(Some(Box::new(move || {
            assert!(counted.fetch_add(1, Ordering::Relaxed) > 0, "the first load panics");
            Ok(vec![Models { model: Box::new(Even), draft: None }])
        })));
        let handle = engine.spawn().unwrap();
        let ((first, of_first), (second, of_second)) = (request(1, 2), request(1, 2));
        handle.submit_all(vec![first, second]).unwrap();
        assert!(matches!(last(&of_first), Event::Failed(EngineError::Step(_))));
        assert!(matches!(last(&of_second), Event::Finished { .. }));
        assert_eq!((num_loads.load(Ordering::Relaxed), handle.stats().restarts), (2, 2));
        assert!(handle.is_alive() && handle.fault().is_none());
    }

    #[test]
    fn a_model_that_cannot_be_loaded_again_ends_the_engine() {
        let failing: Reload = Box::new(|| Err("the disk is gone".into()));
        for (reload, why) in [(Some(failing), "the disk is gone"), (None, "not loaded")] {
            let engine = engine_without_model(reload);
            let handle = engine.spawn().unwrap();
            let ((first, of_first), (second, of_second)) = (request(1, 2), request(1, 2));
            handle.submit_all(vec![first, second]).unwrap();
            assert!(matches!(last(&of_first), Event::Failed(EngineError::Step(_))));
            assert_eq!(last(&of_second), Event::Failed(EngineError::Stopped));
            handle.join();
            assert!(handle.fault().unwrap().contains(why), "{:?}", handle.fault());
        }
    }

    /// One request is enough to find out; the others need not fail one after the other.
    #[test]
    fn a_device_that_no_longer_answers_ends_the_engine_at_once() {
        let engine = engine_with(|_, _| Box::new(LostDevice));
        let handle = engine.spawn().unwrap();
        let ((first, of_first), (second, of_second)) = (request(1, 2), request(1, 2));
        handle.submit_all(vec![first, second]).unwrap();
        let Event::Failed(EngineError::Step(text)) = last(&of_first) else {
            panic!("it is served")
        };
        assert!(text.contains("illegal address"), "{text}");
        assert_eq!(last(&of_second), Event::Failed(EngineError::Stopped));
        handle.join();
        let fault = handle.fault().unwrap();
        assert!(fault.contains("no longer answers") && fault.contains("still"), "{fault}");
    }

    #[test]
    fn too_many_faults_are_those_in_a_row_and_those_in_a_minute() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let record = |faults: &mut Faults, seconds| faults.record("it broke", at(seconds)).is_ok();
        let mut faults = Faults::default();
        assert!((0..4).all(|second| record(&mut faults, second)));
        assert!(!record(&mut faults, 4), "the fifth in a row");
        let mut faults = Faults::default();
        assert!((0..40).all(|number| record(&mut faults, number * 20)), "seldom enough");
        let mut faults = Faults::default();
        let mut record_and_go_on = |second| {
            faults.succeeded();
            record(&mut faults, second)
        };
        assert!((0..19).all(&mut record_and_go_on));
        assert!(!record_and_go_on(19), "the twentieth in a minute");
    }
}
