//! From the choice of a model to a running engine and its text side.

use crate::config::Config;
use crate::hub::Files;
use crate::model_choice::ModelChoice;
use crate::model_files::ModelFiles;
use crate::pooling::PoolingPlan;
use anyhow::{Context, Result, bail};
use candle_core::Device;
use engine::architecture::{LoadError, without_head};
use engine::device::{available_bytes_of_ranks, open_ranks};
use engine::encoder::Encoder;
use engine::memory::MemoryPlan;
use engine::model::{CausalLm, Communicator, ModelSpec};
use engine::weights::{Progress, Weights, decoder_layer};
use engine::{
    Engine, EngineConfig, EngineHandle, EngineOptions, Models, Rank, Reload, share_memory,
};
use indicatif::{ProgressBar, ProgressStyle};
use models::Found;
use serde_json::Value;
use server::PoolingRules;
use std::sync::Arc;
use std::time::{Duration, Instant};
use text::{TextModel, Tokenizer};

type Model = Box<dyn CausalLm>;

/// Models with their weights.
enum Weighty {
    /// Of each rank.
    Decoder(Vec<Models>),
    Encoder(Box<dyn Encoder>),
}

/// Everything that a request needs.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: EngineHandle,
    pub(crate) text: TextModel,
    pub(crate) files: ModelFiles,
    /// Of a model that makes vectors instead of text.
    pub(crate) pooling: Option<PoolingRules>,
}

/// What is known of a model before its weights are read.
#[derive(Debug)]
pub(crate) struct Planned {
    choice: ModelChoice,
    /// Of each rank.
    pub(crate) devices: Vec<Device>,
    model: Described,
    draft: Option<Described>,
    engine: EngineConfig,
    pub(crate) memory: MemoryPlan,
}

/// What the files of a model say.
#[derive(Debug)]
struct Described {
    name: String,
    files: ModelFiles,
    config_json: Value,
    found: Found,
    spec: ModelSpec,
    pooling: Option<PoolingPlan>,
}

impl Described {
    fn read(name: &str, choice: &ModelChoice, files: Files) -> Result<Self> {
        let files = ModelFiles::locate(name, choice, files)?;
        let mut config_json = files.config()?;
        let of_model = || format!("model {name}");
        let found = models::find(&config_json).with_context(of_model)?;
        let folder = files.folder();
        let (spec, pooling) = match found {
            Found::Encoder(row) => {
                let spec = (row.spec)(&config_json).with_context(of_model)?;
                let head = spec.head.as_ref();
                let pooling = choice.pooling.of_encoder(folder, &config_json, head);
                (spec.model, Some(pooling.with_context(of_model)?))
            }
            Found::Generator(row) | Found::Trunk(row) => {
                let is_trunk = matches!(found, Found::Trunk(_));
                let pooling = choice.pooling.of_decoder(folder, is_trunk).with_context(of_model)?;
                if pooling.is_some() {
                    config_json = without_head(&config_json).with_context(of_model)?;
                }
                ((row.spec)(&config_json).with_context(of_model)?, pooling)
            }
        };
        Ok(Self { name: name.to_owned(), files, config_json, found, spec, pooling })
    }
}

/// Reads the descriptions of all models, checks the settings against them and plans the memory.
pub(crate) fn plan(config: &Config, files: Files) -> Result<Vec<Planned>> {
    // Both are settings of the server, the same for all models.
    let options = config.models.first().map(|choice| &choice.engine);
    let num_ranks = options.map_or(Ok(1), EngineOptions::num_ranks)?;
    if let ([first, second, ..], 2..) = (config.models.as_slice(), num_ranks) {
        bail!(
            "--tensor-parallel-size {num_ranks} is for one model, and {} and {} are served: their ranks could wait \
             for each other; start a server for each",
            first.name,
            second.name
        );
    }
    let devices = open_ranks(config.device, num_ranks)?;
    let share = options.map_or(Ok(1.0), EngineOptions::memory_share)?;
    let available =
        available_bytes_of_ranks(&devices, share).context("the device's free memory")?;
    let read = |(index, choice)| {
        // Each engine has streams of its own: what one records must not take in what another asks for.
        let is_first = index == 0 || devices[0].is_cpu();
        let own = if is_first { devices.clone() } else { open_ranks(config.device, num_ranks)? };
        Planned::read(choice, files, own, available)
    };
    let planned = config.models.iter().enumerate().map(read);
    let mut planned = planned.collect::<Result<Vec<_>>>()?;
    let mut plans: Vec<_> = planned.iter_mut().map(|planned| &mut planned.memory).collect();
    share_memory(&mut plans, available)?;
    Ok(planned)
}

/// Loads every model and starts its engine; each is handed over when it is ready. Those behind one
/// that cannot be loaded are not tried.
pub(crate) fn load(config: &Config, mut ready: impl FnMut(usize, Loaded)) -> Result<()> {
    let planned = plan(config, Files::All)?;
    for planned in &planned {
        tracing::info!("memory plan of {}:\n{}", planned.name(), planned.memory);
        if let Some(pooling) = planned.pooling() {
            tracing::info!("{} makes {pooling}", planned.name());
        }
    }
    for planned in &planned {
        planned.memory.check().with_context(|| format!("model {}", planned.name()))?;
    }
    for planned in &planned {
        planned.engine.start_pool()?;
    }
    if planned.iter().any(|planned| planned.devices[0].is_cpu()) {
        tracing::info!("the processor computes with {}", engine::instructions());
        if planned.iter().any(|planned| planned.devices.len() > 1) {
            tracing::warn!(
                "--tensor-parallel-size on the CPU is for trying it out: the ranks share its cores and \
                 memory, and gain nothing"
            );
        }
    }
    for (index, planned) in planned.into_iter().enumerate() {
        let name = planned.name().to_owned();
        ready(index, Arc::new(planned).load().with_context(|| format!("model {name}"))?);
    }
    Ok(())
}

/// Loads the only model.
pub(crate) fn load_only(config: &Config) -> Result<Loaded> {
    if let [first, second, ..] = config.models.as_slice() {
        bail!("this is for one model: give {} or {}", first.name, second.name);
    }
    let mut loaded = None;
    load(config, |_, model| loaded = Some(model))?;
    loaded.context("no model is configured")
}

impl Planned {
    fn read(
        choice: &ModelChoice,
        files: Files,
        devices: Vec<Device>,
        available: usize,
    ) -> Result<Self> {
        let mut choice = choice.clone();
        choice.engine.on_gpu = !devices[0].is_cpu();
        let choice = &choice;
        let model = Described::read(&choice.name, choice, files)?;
        let draft = choice.draft.as_ref().map(|name| Described::read(name, choice, files));
        let draft = draft.transpose().context("--draft-model")?;
        let of_model = || format!("model {}", choice.name);
        let mut options = choice.engine.clone();
        if let Some(pooling) = &model.pooling {
            if draft.is_some() {
                bail!("--draft-model: {} pools and generates nothing", model.name);
            }
            if options.cudagraph_capture_sizes.as_ref().is_some_and(|sizes| !sizes.is_empty()) {
                bail!("--cudagraph-capture-sizes: {} pools and decodes nothing", model.name);
            }
            pooling.apply(&mut options, &model.spec);
        }
        let engine = EngineConfig::resolve(&options, &model.spec).with_context(of_model)?;
        let mut memory = MemoryPlan::compute(&model.spec, &engine, available);
        if let Some(draft) = &draft {
            memory = memory.with_draft(&model.spec, &draft.spec).with_context(of_model)?;
        }
        Ok(Self { choice: choice.clone(), devices, model, draft, engine, memory })
    }

    /// Loads text side and weights and starts the engine, which may load the weights again.
    fn load(self: Arc<Self>) -> Result<Loaded> {
        let started = Instant::now();
        let group = self.group()?;
        // The tokenizer of a large vocabulary takes as long as a small model's weights.
        let (text, models) = std::thread::scope(|scope| {
            let text = scope.spawn(|| self.text());
            let models = self.load_weights(&group);
            let text = text.join().map_err(|_| anyhow::anyhow!("reading the tokenizer panicked"));
            (text.and_then(|text| text), models)
        });
        let (text, models) = (text?, models?);
        let (planned, spec, plan, devices) =
            (Arc::clone(&self), self.spec(), &self.memory, &self.devices);
        let ranks = |models: Vec<Models>| {
            let parts = models.into_iter().zip(devices).zip(group.clone());
            let rank = |((models, device), communicator): ((_, &Device), _)| Rank {
                models,
                device: device.clone(),
                communicator,
            };
            parts.map(rank).collect()
        };
        let same_group = group.clone();
        let reload: Reload = Box::new(move || {
            planned.load_decoders(&same_group).map_err(|error| format!("{error:#}"))
        });
        let pooling = self.pooling_rules();
        let engine = match models {
            Weighty::Encoder(model) => Engine::start_encoder(model, spec, plan, &devices[0])?,
            Weighty::Decoder(models) if pooling.is_some() => {
                Engine::start_pooling(ranks(models), spec, plan, Some(reload))?
            }
            Weighty::Decoder(models) => {
                let specs = (spec, self.draft.as_ref().map(|draft| &draft.spec));
                let eos = text.eos_token_ids();
                Engine::start_ranks(ranks(models), specs, plan, eos, Some(reload))?
            }
        };
        tracing::info!("{} is ready after {:.2} s", self.name(), started.elapsed().as_secs_f64());
        Ok(Loaded { engine, text, files: self.model.files.clone(), pooling })
    }

    /// As it was asked for.
    pub(crate) fn name(&self) -> &str {
        &self.model.name
    }

    pub(crate) fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    /// How the model pools, if it does.
    pub(crate) fn pooling(&self) -> Option<&PoolingPlan> {
        self.model.pooling.as_ref()
    }

    fn pooling_rules(&self) -> Option<PoolingRules> {
        let Described { config_json, spec, .. } = &self.model;
        let rules = |plan| self.choice.pooling.rules(plan, config_json, spec.hidden_size);
        self.pooling().map(rules)
    }

    /// The text side. A draft model's must be the same, or its guesses would mean something else.
    fn text(&self) -> Result<TextModel> {
        let read = |described: &Described| {
            described.files.text(&self.choice).with_context(|| described.name.clone())
        };
        let text = read(&self.model)?;
        text.grammars().prepare();
        self.prepare_encoder(text.tokenizer().clone())?;
        let Some(draft) = &self.draft else { return Ok(text) };
        if let Some(id) = text.tokenizer().first_difference(read(draft)?.tokenizer()) {
            bail!(
                "--draft-model {}: its token {id} is another than the model's; give a model of the \
                 same tokenizer",
                draft.name
            );
        }
        Ok(text)
    }

    /// Nobody waits for it: of a large vocabulary it takes a second.
    fn prepare_encoder(&self, tokenizer: Tokenizer) -> Result<()> {
        let name = self.name().to_owned();
        let prepare = move || {
            if !tokenizer.prepare_fast_encoder() {
                tracing::info!(
                    "texts of {name} are encoded by tokenizers 0.23, up to a microsecond a token: 1.0 \
                     reads its tokenizer otherwise"
                );
            }
        };
        std::thread::Builder::new().name("tokenizer".into()).spawn(prepare)?;
        Ok(())
    }

    /// An end for each rank, if there are several.
    fn group(&self) -> Result<Vec<Option<Arc<Communicator>>>> {
        if self.devices.len() == 1 {
            return Ok(vec![None]);
        }
        let group = Communicator::group(&self.devices).context("--tensor-parallel-size")?;
        Ok(group.into_iter().map(|end| Some(Arc::new(end))).collect())
    }

    fn load_weights(&self, group: &[Option<Arc<Communicator>>]) -> Result<Weighty> {
        let Found::Encoder(row) = self.model.found else {
            return self.load_decoders(group).map(Weighty::Decoder);
        };
        let (max_len, json) = (self.engine.max_model_len, &self.model.config_json);
        let load = |weights: &mut Weights| (row.load)(json, weights, max_len);
        self.model.build(self, (&self.devices[0], None), load).map(Weighty::Encoder)
    }

    /// The parts of all ranks, side by side.
    fn load_decoders(&self, group: &[Option<Arc<Communicator>>]) -> Result<Vec<Models>> {
        std::thread::scope(|scope| {
            let ranks = self.devices.iter().zip(group);
            let ranks = ranks
                .map(|(device, end)| scope.spawn(move || self.load_decoder(device, end.as_ref())));
            let ranks: Vec<_> = ranks.collect();
            let loaded = ranks
                .into_iter()
                .map(|rank| rank.join().unwrap_or_else(|_| bail!("reading the weights panicked")));
            loaded.collect()
        })
    }

    fn load_decoder(&self, device: &Device, end: Option<&Arc<Communicator>>) -> Result<Models> {
        let load = |described: &Described| -> Result<Model> {
            let (Found::Generator(row) | Found::Trunk(row)) = described.found else {
                bail!("{} is an encoder and generates nothing", described.name);
            };
            let (max_len, json) = (self.engine.max_model_len, &described.config_json);
            let load = |weights: &mut Weights| (row.load)(json, weights, max_len);
            described.build(self, (device, end), load)
        };
        Ok(Models { model: load(&self.model)?, draft: self.draft.as_ref().map(&load).transpose()? })
    }
}

impl Described {
    /// Builds the model from its weights, or a rank's part of it.
    fn build<T>(
        &self,
        planned: &Planned,
        (device, end): (&Device, Option<&Arc<Communicator>>),
        load: impl FnOnce(&mut Weights) -> Result<T, LoadError>,
    ) -> Result<T> {
        let Planned { choice, engine, .. } = planned;
        let started = Instant::now();
        // The ranks read parts of the same size: one speaks for all.
        let is_first = end.is_none_or(|end| end.rank() == 0);
        let bar = if is_first { progress_bar() } else { ProgressBar::hidden() };
        let shown = bar.clone();
        let weights = self.files.weights(choice, (engine, &self.spec), (device, end.cloned()));
        let weights = weights.with_context(|| self.name.clone())?;
        let mut weights = weights.with_progress(move |progress: Progress| {
            shown.set_length(progress.total_bytes.max(progress.loaded_bytes));
            shown.set_position(progress.loaded_bytes);
        });
        let model = load(&mut weights);
        bar.finish_and_clear();
        let model = model.with_context(|| self.name.clone())?;
        if !is_first {
            return Ok(model);
        }
        let mut unused = weights.unused();
        if !self.spec.is_encoder() {
            // Layers behind the last guess tokens further ahead.
            unused.retain(|name| {
                decoder_layer(name).is_none_or(|layer| layer < self.spec.num_layers)
            });
        }
        if !unused.is_empty() {
            let first = unused.iter().take(3).copied().collect::<Vec<_>>().join(", ");
            tracing::warn!("{} tensors of the checkpoint are not used: {first} ...", unused.len());
        }
        let num_ranks = end.map_or(1, |end| end.num_ranks());
        let bytes = (num_ranks * engine.weight_bytes(&self.spec)) as f64;
        let seconds = started.elapsed().as_secs_f64();
        let speed = bytes / seconds / 1e9;
        tracing::info!("{:.1} MB of weights in {seconds:.2} s ({speed:.1} GB/s)", bytes / 1e6);
        Ok(model)
    }
}

/// On a terminal a bar, elsewhere nothing.
fn progress_bar() -> ProgressBar {
    let style = "loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
