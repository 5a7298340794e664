//! The ranks of a model that is shared out to several devices (tensor parallelism): each has a part of every
//! layer and runs the same steps at the same time, on a thread of its own while a step is asked for.
//!
//! All of them get all logits and sample with the same random numbers, so that nobody waits for tokens of
//! another. The scheduler and everything above see one runner.

use std::collections::HashMap;
use std::fmt;
use std::iter::once;
use std::mem;
use std::sync::Arc;

use candle_core::{Device, Error, Result, bail};
use kernels::collectives::{Communicator, GIVEN_UP};
use kernels::fork_join::ForkJoin;
use parking_lot::Mutex;
use scheduler::{Plan, SeqId};

use crate::device::without_backtrace;
use crate::model::CausalLm;
use crate::runner::StepRunner;
use crate::sequence::Sequence;
use crate::start::StartError;
use crate::step::{Launched, StepOutput};

/// What a rank computes with, of all that an engine has.
pub struct Rank {
    /// Its parts.
    pub models: Models,
    /// Where they are.
    pub device: Device,
    /// Its end of the group that its models were loaded with; none of an only rank.
    pub communicator: Option<Arc<Communicator>>,
}

/// The models of a rank.
pub struct Models {
    /// The model, or the rank's part of it.
    pub model: Box<dyn CausalLm>,
    /// The draft model, or the rank's part of it.
    pub draft: Option<Box<dyn CausalLm>>,
}

impl fmt::Debug for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rank on {:?}", self.device.location())
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.draft.is_some() { "Models with a draft model" } else { "Models" })
    }
}

type AnyRunner = Box<dyn StepRunner>;

/// Runs each step on all ranks at once.
pub(crate) struct Ranks {
    runners: Vec<Mutex<AnyRunner>>,
    /// As many as ranks: they wait for each other.
    threads: ForkJoin,
    /// Any rank's.
    communicator: Arc<Communicator>,
    /// How often the group began anew: what was asked for before is lost.
    num_groups: u64,
    /// Why it did last.
    cause: String,
}

/// Why a group was given up that no rank has given up.
const LATE: &str = "a GPU of the model waited a minute for another";

/// Gives the group up unless a rank has come to its end, so that the others do not wait for it.
struct Guard<'a> {
    communicator: &'a Communicator,
    has_ended: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.communicator.give_up();
        }
    }
}

/// What `f` gives of each rank, all at once.
fn on_all<T: Send>(
    threads: &ForkJoin,
    communicator: &Communicator,
    f: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let results: Vec<_> = (0..threads.num_threads()).map(|_| Mutex::new(None)).collect();
    threads.run(results.len(), &|rank| {
        let mut guard = Guard { communicator, has_ended: false };
        let result = f(rank);
        guard.has_ended = result.is_ok();
        *results[rank].lock() = Some(result);
    });
    let (mut given, mut errors) = (Vec::new(), Vec::new());
    for (rank, result) in results.into_iter().enumerate() {
        match result.into_inner() {
            Some(Ok(value)) => given.push(value),
            Some(Err(error)) => errors.push(error.context(format!("rank {rank}"))),
            None => errors.push(Error::Msg(GIVEN_UP.to_owned())),
        }
    }
    if errors.is_empty() {
        return Ok(given);
    }
    // Not that of those who only heard of it.
    let at = errors.iter().position(|error| !error.to_string().contains(GIVEN_UP)).unwrap_or(0);
    Err(errors.swap_remove(at))
}

impl Ranks {
    /// The runner of an only rank, or one that runs those of several, which `runner` makes.
    pub(crate) fn start(
        mut ranks: Vec<Rank>,
        runner: impl Fn(Rank) -> Result<AnyRunner> + Sync,
    ) -> std::result::Result<AnyRunner, StartError> {
        if ranks.len() == 1 {
            return Ok(runner(ranks.remove(0))?);
        }
        let communicator = ranks[0].communicator.clone().expect("ranks share a group");
        let threads = ForkJoin::new("rank", ranks.len()).map_err(StartError::Thread)?;
        let ranks: Vec<_> = ranks.into_iter().map(|rank| Mutex::new(Some(rank))).collect();
        // No group begins anew: if one of the ranks cannot start, there is no engine.
        let runners = on_all(&threads, &communicator, |rank| {
            let Some(rank) = ranks[rank].lock().take() else { bail!("a rank starts once") };
            if let Some(end) = &rank.communicator {
                end.check(&rank.device)?;
            }
            runner(rank)
        })?;
        if communicator.is_given_up() {
            return Err(Error::Msg(LATE.to_owned()).into());
        }
        let runners = runners.into_iter().map(Mutex::new).collect();
        let (num_groups, cause) = (0, String::new());
        Ok(Box::new(Self { runners, threads, communicator, num_groups, cause }))
    }

    fn on_all<T: Send>(
        &mut self,
        f: impl Fn(usize, &mut dyn StepRunner) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let call = |rank: usize| f(rank, &mut **self.runners[rank].lock());
        let given = on_all(&self.threads, &self.communicator, call);
        if !self.communicator.is_given_up() {
            return given;
        }
        let cause = given.as_ref().err().map_or_else(|| LATE.to_owned(), without_backtrace);
        let begun = self.begin_anew(cause);
        given?;
        begun?;
        bail!("{LATE}")
    }

    fn begin_anew(&mut self, cause: String) -> Result<()> {
        self.cause = cause;
        self.num_groups += 1;
        self.communicator.begin_anew()
    }

    /// Refuses what was under way when the group was given up: GPUs then go on with anything.
    fn check(&self, launched: &Launched) -> Result<()> {
        if launched.num_groups == self.num_groups { Ok(()) } else { bail!("{}", self.cause) }
    }
}

impl StepRunner for Ranks {
    fn launch(
        &mut self,
        plan: &Plan,
        sequences: &HashMap<SeqId, Sequence>,
        before: Option<(&Plan, &Launched)>,
    ) -> Result<Launched> {
        let launched = self.on_all(|rank, runner| {
            let before = before.map(|(plan, launched)| (plan, launched.of_rank(rank)));
            runner.launch(plan, sequences, before)
        })?;
        let mut launched = launched.into_iter();
        let mut first = launched.next().expect("there are ranks");
        (first.others, first.num_groups) = (launched.collect(), self.num_groups);
        Ok(first)
    }

    fn sample(
        &mut self,
        plan: &Plan,
        launched: &mut Launched,
        sequences: &HashMap<SeqId, Sequence>,
    ) -> Result<()> {
        self.check(launched)?;
        let mut others = mem::take(&mut launched.others);
        let of_ranks: Vec<_> = once(&mut *launched).chain(&mut others).map(Mutex::new).collect();
        self.on_all(|rank, runner| runner.sample(plan, &mut of_ranks[rank].lock(), sequences))?;
        launched.others = others;
        Ok(())
    }

    fn read(&mut self, plan: &Plan, mut launched: Launched) -> Result<StepOutput> {
        self.check(&launched)?;
        let others = mem::take(&mut launched.others);
        let of_ranks: Vec<_> =
            once(launched).chain(others).map(|launched| Mutex::new(Some(launched))).collect();
        let mut outputs = self.on_all(|rank, runner| {
            let Some(launched) = of_ranks[rank].lock().take() else { bail!("a step is read once") };
            runner.read(plan, launched)
        })?;
        if let Some(other) =
            (1..outputs.len()).find(|rank| !outputs[*rank].agrees_with(&outputs[0]))
        {
            bail!("rank {other} of the model gave another result than the first");
        }
        Ok(outputs.swap_remove(0))
    }

    fn forget(&mut self, id: SeqId) {
        self.runners.iter_mut().for_each(|runner| runner.get_mut().forget(id));
    }

    fn check_device(&self) -> Result<()> {
        self.runners.iter().try_for_each(|runner| runner.lock().check_device())
    }

    fn reset(&mut self) -> Result<()> {
        self.begin_anew("a rank of the model panicked".to_owned())?;
        self.on_all(|_, runner| runner.reset()).map(drop)
    }

    fn unload(&mut self) {
        self.runners.iter_mut().for_each(|runner| runner.get_mut().unload());
    }

    fn install(&mut self, models: &mut dyn Iterator<Item = Models>) {
        self.runners.iter_mut().for_each(|runner| runner.get_mut().install(models));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::Receiver;

    use candle_core::{DType, Tensor};

    use super::*;
    use crate::config::{EngineConfig, EngineOptions};
    use crate::engine::Engine;
    use crate::handle::EngineHandle;
    use crate::memory::MemoryPlan;
    use crate::model::{ForwardBatch, KvCache, ModelSpec};
    use crate::request::{Constraint, EngineError, Event};
    use crate::testing::request;

    const VOCAB: usize = 8;
    /// What the second rank cannot read: an error, a panic, and one that it takes for another.
    const WRONG: u32 = 5;
    const PANIC: u32 = 6;
    const OTHER: u32 = 7;

    /// Says that the next token is one more, each rank half as loud.
    struct Next(Arc<Communicator>);

    impl CausalLm for Next {
        fn forward(&self, batch: &ForwardBatch, _: &KvCache) -> Result<Tensor> {
            let ids: Vec<u32> = batch.ids.to_vec1()?;
            let is_second = self.0.rank() == 1;
            assert!(!(is_second && ids.contains(&PANIC)), "the second rank cannot read {PANIC}");
            if is_second && ids.contains(&WRONG) {
                bail!("the second rank cannot read {WRONG}");
            }
            let rows: Vec<u32> = batch.logits_rows.to_vec1()?;
            let mut logits = vec![0f32; rows.len() * VOCAB];
            for (row, logits) in rows.iter().zip(logits.chunks_mut(VOCAB)) {
                logits[(ids[*row as usize] as usize + 1) % VOCAB] = 0.5;
            }
            let logits = Tensor::from_vec(logits, (rows.len(), VOCAB), &Device::Cpu)?;
            let sum = self.0.all_reduce(&logits)?;
            if is_second && ids.contains(&OTHER) {
                return sum.neg();
            }
            Ok(sum)
        }

        fn hidden(&self, batch: &ForwardBatch, cache: &KvCache) -> Result<Tensor> {
            self.forward(batch, cache)
        }
    }

    fn engine(async_scheduling: bool) -> EngineHandle {
        let spec = ModelSpec {
            architecture: "NextForCausalLM".into(),
            num_layers: 1,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 1,
            hidden_size: 2,
            intermediate_size: 2,
            vocab_size: VOCAB,
            max_position_embeddings: 32,
            num_parameters: 1000,
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
            tensor_parallel_size: Some(2),
            async_scheduling: Some(async_scheduling),
            ..EngineOptions::default()
        };
        let config = EngineConfig::resolve(&options, &spec).unwrap();
        let plan = MemoryPlan::compute(&spec, &config, 1 << 30);
        let group = Communicator::group(&[Device::Cpu, Device::Cpu]).unwrap();
        let group: Vec<_> = group.into_iter().map(Arc::new).collect();
        let models = |end: &Arc<Communicator>| Models {
            model: Box::new(Next(Arc::clone(end))),
            draft: None,
        };
        let rank = |end: &Arc<Communicator>| Rank {
            models: models(end),
            device: Device::Cpu,
            communicator: Some(Arc::clone(end)),
        };
        let ranks = group.iter().map(rank).collect();
        Engine::start_ranks(ranks, (&spec, None), &plan, &[], None).unwrap()
    }

    /// The tokens, or why there are none.
    fn answer(events: Receiver<Event>) -> std::result::Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        for event in events {
            match event {
                Event::Token { id, .. } => tokens.push(id),
                Event::Failed(EngineError::Step(why)) => return Err(why),
                Event::Failed(other) => panic!("{other}"),
                _ => {}
            }
        }
        Ok(tokens)
    }

    fn ask(engine: &EngineHandle, first: u32) -> std::result::Result<Vec<u32>, String> {
        let (request, events) = request(first, 3);
        engine.submit(request).unwrap();
        answer(events)
    }

    /// The first rank waits for the second, which does not come, and the next request finds both.
    #[test]
    fn a_rank_that_fails_costs_the_step_and_no_more() {
        let engine = engine(false);
        for (first, why, num_restarts) in [
            (WRONG, "the second rank cannot read 5", 0),
            (PANIC, "the second rank cannot read 6", 1),
            (OTHER, "rank 1 of the model gave another result than the first", 1),
        ] {
            assert_eq!(ask(&engine, 1), Ok(vec![2, 3, 4]));
            let error = ask(&engine, first).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert_eq!(engine.stats().restarts, num_restarts);
        }
        assert_eq!(ask(&engine, 1), Ok(vec![2, 3, 4]));
        assert!(engine.fault().is_none());
    }

    /// The step behind it fails while one is not yet read, of which GPUs would compute the rest without waiting
    /// for each other.
    #[test]
    fn what_is_under_way_when_a_rank_fails_is_lost() {
        let engine = engine(true);
        let (fails, of_fails) = request(WRONG - 1, 3);
        let (beside, of_beside) = request(1, 1);
        engine.submit_all(vec![fails, beside]).unwrap();
        let errors = [of_fails, of_beside].map(|events| answer(events).unwrap_err());
        for error in errors {
            assert_eq!(error, "rank 1: the second rank cannot read 5");
        }
        assert_eq!(ask(&engine, 1), Ok(vec![2, 3, 4]));
    }

    /// Allows everything, and counts how often it is asked.
    struct Free(Arc<AtomicUsize>);

    impl Constraint for Free {
        fn fill_mask(&mut self, mask: &mut [u32]) -> std::result::Result<(), String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            mask.fill(u32::MAX);
            Ok(())
        }

        fn accept(&mut self, _: u32) -> std::result::Result<bool, String> {
            Ok(false)
        }

        fn rollback(&mut self, _: usize) -> std::result::Result<(), String> {
            Ok(())
        }

        fn forced(&mut self, _: usize) -> Vec<u32> {
            Vec::new()
        }
    }

    #[test]
    fn a_mask_is_computed_once_for_all_ranks() {
        let (engine, num_asked) = (engine(false), Arc::new(AtomicUsize::new(0)));
        let (mut request, events) = request(1, 3);
        request.constraint = Some(Box::new(Free(Arc::clone(&num_asked))));
        engine.submit(request).unwrap();
        assert_eq!(answer(events), Ok(vec![2, 3, 4]));
        assert_eq!(num_asked.load(Ordering::Relaxed), 3);
    }
}
