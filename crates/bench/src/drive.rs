//! Puts the load on: users of a closed loop, or sessions at the times of a schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::Input;
use crate::collect::Collector;
use crate::failure::FailureKind;
use crate::progress::Progress;
use crate::quantity::Rate;
use crate::request::{Asked, Sample, ask};
use crate::schedule::Arrivals;
use crate::server::Server;
use crate::workload::{Session, Workload, user_message};

/// A user who was refused waits this long, longer each time, or as long as the server asked.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// So many failures without any success end a run that cannot succeed.
const HOPELESS: usize = 20;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Load {
    /// Each user sends its next request when the last one is answered.
    Closed(usize),
    /// At times that do not depend on the server; `cap` are the most at once.
    Open { rate: Rate, burstiness: f64, cap: Option<usize> },
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) load: Load,
    /// Sessions.
    pub(crate) requests: Option<usize>,
    /// Time in which sessions begin.
    pub(crate) duration: Option<Duration>,
    pub(crate) seed: u64,
    /// Number of the first session: no two runs ask the same, or the second would be answered from
    /// the server's prefix cache.
    pub(crate) first_session: u64,
}

/// Counters of the running moment.
#[derive(Debug, Default)]
pub(crate) struct Live {
    running: AtomicUsize,
    max_running: AtomicUsize,
}

impl Live {
    fn enter(&self) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.max_running.fetch_max(running, Ordering::Relaxed);
    }

    fn leave(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn max_running(&self) -> usize {
        self.max_running.load(Ordering::Relaxed)
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything asked was sent and answered, or failed.
    Done,
    /// By the user.
    Interrupted,
    /// Nothing but failures.
    Hopeless,
    /// What was to be shown cannot be shown any more.
    Abandoned,
}

/// What every session needs.
struct Run {
    server: Arc<Server>,
    workload: Arc<Workload>,
    plan: Plan,
    epoch: Instant,
    live: Arc<Live>,
    next: AtomicU64,
    done: UnboundedSender<Finished>,
}

/// A sample, and how late the generator was with it.
type Finished = (Sample, Duration);

/// A session that is due.
type Due = (Session, Instant);

/// Runs the plan to its end, an interrupt or hopelessness, or until `is_lost` says so.
pub(crate) async fn drive(
    (server, workload): (&Arc<Server>, &Arc<Workload>),
    plan: Plan,
    mut stop: watch::Receiver<bool>,
    (live, progress): (&Arc<Live>, &mut Progress),
    collector: &mut Collector,
    is_lost: &dyn Fn(&Collector) -> bool,
) -> Ended {
    let (done, mut finished) = unbounded_channel();
    let run = Arc::new(Run {
        server: Arc::clone(server),
        workload: Arc::clone(workload),
        plan,
        epoch: Instant::now(),
        live: Arc::clone(live),
        next: AtomicU64::new(0),
        done,
    });
    let mut tasks = JoinSet::new();
    match plan.load {
        Load::Closed(users) => {
            for _ in 0..users {
                tasks.spawn(user(Arc::clone(&run)));
            }
        }
        Load::Open { rate, burstiness, cap } => {
            let due = schedule(&run, rate, burstiness);
            tasks.spawn(open_loop(Arc::clone(&run), due, cap));
        }
    }
    drop(run);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            sample = finished.recv() => match sample {
                None => return Ended::Done,
                Some((sample, lag)) => {
                    collector.add(&sample, lag);
                    if collector.completed() == 0 && is_hopeless(collector) {
                        return Ended::Hopeless;
                    }
                    if is_lost(collector) {
                        return Ended::Abandoned;
                    }
                }
            },
            _ = tick.tick() => {
                progress.show(collector, live, server.num_events.load(Ordering::Relaxed));
            }
            _ = stop.wait_for(|stop| *stop) => return Ended::Interrupted,
        }
    }
}

fn is_hopeless(collector: &Collector) -> bool {
    let lasting = |kind| {
        !matches!(kind, FailureKind::RateLimited | FailureKind::ServerError | FailureKind::Timeout)
    };
    let failures = collector.failures();
    failures.total() >= HOPELESS && failures.list().iter().all(|failure| lasting(failure.kind))
}

impl Run {
    /// Number of the next session, or none if there are no more.
    fn next_session(&self) -> Option<u64> {
        let over = self.plan.duration.is_some_and(|duration| self.epoch.elapsed() >= duration);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let more = self.plan.requests.is_none_or(|requests| number < requests as u64);
        (more && !over).then_some(self.plan.first_session + number)
    }

    /// One conversation. Returns the pause that its failure asks for.
    async fn converse(
        &self,
        session: Session,
        mut due: Instant,
        mut lag: Duration,
    ) -> Option<Pause> {
        let num_turns = session.turns.len();
        let mut history = Vec::new();
        for (number, turn) in session.turns.into_iter().enumerate() {
            let last = number + 1 == num_turns;
            let input = if num_turns == 1 {
                turn.input
            } else {
                match turn.input {
                    Input::Text(text) => history.push(user_message(&text)),
                    Input::Messages(messages) => history.extend(messages),
                }
                Input::Messages(history.clone())
            };
            let asked = Asked {
                prompt_tokens: turn.prompt_tokens,
                output_tokens: turn.output_tokens,
                keep_text: !last,
            };
            self.live.enter();
            let timeout = self.server.timeout;
            let mut sample = ask(&self.server, &input, asked, self.epoch, due, timeout).await;
            self.live.leave();
            let failure = sample.failure.as_ref();
            let pause = failure.map(|failure| Pause { asked: failure.retry_after });
            let answer = std::mem::take(&mut sample.text);
            // The receiver is gone when the run is over.
            drop(self.done.send((sample, lag)));
            if pause.is_some() || last {
                return pause;
            }
            history.push(serde_json::json!({"role": "assistant", "content": answer}));
            if !session.think_time.is_zero() {
                tokio::time::sleep(session.think_time).await;
            }
            (due, lag) = (Instant::now(), Duration::ZERO);
        }
        None
    }
}

/// What a refused user waits.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// By Retry-After.
    asked: Option<Duration>,
}

/// A user of a closed loop. One that is refused pauses, or the loop would spin on refusals.
async fn user(run: Arc<Run>) {
    let mut pause = FIRST_PAUSE;
    while let Some(number) = run.next_session() {
        let session = run.workload.session(number);
        match run.converse(session, Instant::now(), Duration::ZERO).await {
            None => pause = FIRST_PAUSE,
            Some(refused) => {
                tokio::time::sleep(refused.asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Draws sessions ahead on a thread of its own and hands each over when it is due. The runtime's
/// timers go by the millisecond, a sleeping thread is woken within some ten microseconds.
fn schedule(run: &Run, rate: Rate, burstiness: f64) -> UnboundedReceiver<Due> {
    let Plan { requests, duration, seed, first_session, .. } = run.plan;
    let by_number = requests.map(|n| Duration::from_secs_f64(n as f64 / rate.mean().max(1e-9)));
    let length = duration.or(by_number).unwrap_or(Duration::ZERO);
    let arrivals = Arrivals::new(rate, burstiness, length, seed.wrapping_add(first_session));
    let (sender, receiver) = unbounded_channel();
    let (workload, epoch) = (Arc::clone(&run.workload), run.epoch);
    let arrivals = arrivals
        .take(requests.unwrap_or(usize::MAX))
        .take_while(move |due| duration.is_none_or(|duration| *due < duration));
    let deliver = move || {
        for (number, due) in (first_session..).zip(arrivals) {
            let session = workload.session(number);
            let due = epoch + due;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send((session, due)).is_err() {
                break;
            }
        }
    };
    // Without the thread the channel closes and the run ends empty.
    drop(thread::Builder::new().name("schedule".to_owned()).spawn(deliver));
    receiver
}

/// Begins each session when it is due; with a cap, when there is a place for it.
async fn open_loop(run: Arc<Run>, mut due: UnboundedReceiver<Due>, cap: Option<usize>) {
    let places = cap.map(|cap| Arc::new(Semaphore::new(cap)));
    let mut sessions = JoinSet::new();
    while let Some((session, due)) = due.recv().await {
        let lag = due.elapsed();
        let (run, places) = (Arc::clone(&run), places.clone());
        sessions.spawn(async move {
            let _place = match &places {
                Some(places) => places.acquire().await.ok(),
                None => None,
            };
            run.converse(session, due, lag).await;
        });
        while sessions.try_join_next().is_some() {}
    }
    while sessions.join_next().await.is_some() {}
}
