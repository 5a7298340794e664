//! Everything that a model folder says about text, behind one door.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::chat_template::is_template_text;
use crate::{
    ChatInput, ChatTemplates, Detokenizer, GenerationConfig, GrammarCompiler, OutputFormat,
    SpecialTokens, TextError, Tokenizer,
};

/// The text files of a model: read from a folder, or compiled into the program.
#[derive(Debug, Clone, Default)]
pub struct TextFiles {
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// tokenizer_config.json.
    pub tokenizer_config: Option<Vec<u8>>,
    /// special_tokens_map.json, which older models need.
    pub special_tokens_map: Option<Vec<u8>>,
    /// generation_config.json.
    pub generation_config: Option<Vec<u8>>,
    /// config.json, for EOS ids where nothing else has them.
    pub config: Option<Vec<u8>>,
    /// chat_template.jinja.
    pub chat_template: Option<String>,
    /// additional_chat_templates/NAME.jinja, by NAME.
    pub additional_chat_templates: BTreeMap<String, String>,
    /// chat_template.json, which older processors have.
    pub chat_template_json: Option<Vec<u8>>,
    /// `--chat-template`: the text of a template that replaces the model's own.
    pub chat_template_override: Option<String>,
}

impl TextFiles {
    /// Reads the text files of the model folder `dir`; all but tokenizer.json may be absent.
    pub fn read(dir: &Path) -> Result<Self, TextError> {
        let tokenizer =
            read(&dir.join("tokenizer.json"))?.ok_or_else(|| TextError::MissingFile {
                file: "tokenizer.json",
                dir: dir.to_owned(),
                hint: "this model needs a fast tokenizer; convert it with transformers: \
                   AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            })?;
        Ok(Self {
            tokenizer,
            tokenizer_config: read(&dir.join("tokenizer_config.json"))?,
            special_tokens_map: read(&dir.join("special_tokens_map.json"))?,
            generation_config: read(&dir.join("generation_config.json"))?,
            config: read(&dir.join("config.json"))?,
            chat_template: read_text(&dir.join("chat_template.jinja"))?,
            additional_chat_templates: read_templates(&dir.join("additional_chat_templates"))?,
            chat_template_json: read(&dir.join("chat_template.json"))?,
            chat_template_override: None,
        })
    }

    /// Sets the `--chat-template` override: the path of a file, or the template itself.
    pub fn override_chat_template(&mut self, path_or_text: &str) -> Result<(), TextError> {
        self.chat_template_override = if is_template_text(path_or_text) {
            Some(path_or_text.to_owned())
        } else {
            let path = Path::new(path_or_text);
            let text = read_text(path)?.ok_or_else(|| TextError::Io {
                path: path.to_owned(),
                reason: std::io::ErrorKind::NotFound.into(),
            })?;
            Some(text)
        };
        Ok(())
    }
}

/// A model's text side: tokenizer, chat templates, generation defaults. Shared between threads.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    templates: ChatTemplates,
    generation: GenerationConfig,
    grammars: Arc<GrammarCompiler>,
    output_format: OutputFormat,
    /// Special tokens that the output's parser must see.
    markers: Arc<[u32]>,
}

impl TextModel {
    /// Loads the text files of a model folder.
    pub fn load(dir: &Path) -> Result<Self, TextError> {
        Self::from_files(&TextFiles::read(dir)?)
    }

    /// Builds from files already in memory: an embedded model, or a folder with an override.
    pub fn from_files(files: &TextFiles) -> Result<Self, TextError> {
        let tokenizer_config: Value =
            json("tokenizer_config.json", files.tokenizer_config.as_ref())?;
        let map = json("special_tokens_map.json", files.special_tokens_map.as_ref())?;
        let special = SpecialTokens::from_config(&tokenizer_config, &map)?;
        let tokenizer = Tokenizer::from_bytes(&files.tokenizer, special)?;
        let generation = GenerationConfig::from_json(
            &json("generation_config.json", files.generation_config.as_ref())?,
            &json("config.json", files.config.as_ref())?,
            tokenizer.special_id("eos_token"),
        )?;
        let grammars = Arc::new(GrammarCompiler::new(&tokenizer, &generation.eos_token_ids));
        Self::build(files, &tokenizer_config, tokenizer, generation, grammars)
    }

    /// The same with the chat templates of `files`, and the output format that they show. Tokenizer and
    /// defaults stay as they were loaded: the engine knows them, too.
    pub fn with_templates_of(&self, files: &TextFiles) -> Result<Self, TextError> {
        let config = json("tokenizer_config.json", files.tokenizer_config.as_ref())?;
        let (tokenizer, generation) = (self.tokenizer.clone(), self.generation.clone());
        Self::build(files, &config, tokenizer, generation, Arc::clone(&self.grammars))
    }

    fn build(
        files: &TextFiles,
        tokenizer_config: &Value,
        tokenizer: Tokenizer,
        generation: GenerationConfig,
        grammars: Arc<GrammarCompiler>,
    ) -> Result<Self, TextError> {
        let processor = json("chat_template.json", files.chat_template_json.as_ref())?;
        let special = tokenizer.special_tokens();
        let templates = ChatTemplates::from_files(files, tokenizer_config, &processor, special)?;
        let model_type = json("config.json", files.config.as_ref())?["model_type"].take();
        let detected = OutputFormat::detect(&templates.text(), model_type.as_str());
        let mut model = Self {
            tokenizer,
            templates,
            generation,
            grammars,
            output_format: OutputFormat::default(),
            markers: Arc::default(),
        };
        model.set_output_format(detected);
        Ok(model)
    }

    /// The tokenizer; a clone is a reference.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat templates; may be empty.
    pub fn templates(&self) -> &ChatTemplates {
        &self.templates
    }

    /// The defaults of generation_config.json.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// How the model marks reasoning and calls.
    pub fn output_format(&self) -> &OutputFormat {
        &self.output_format
    }

    /// Overrides what was read off the template.
    pub fn set_output_format(&mut self, format: OutputFormat) {
        let markers = format.markers();
        let ids = markers.iter().filter_map(|marker| self.tokenizer.token_id(marker));
        self.markers = ids.filter(|&id| self.tokenizer.is_special(id)).collect();
        self.output_format = format;
    }

    /// A detokenizer that shows the marks of reasoning and calls even where they are special tokens,
    /// for text that continues `prompt` or, if that is empty, stands alone.
    pub fn output_detokenizer(&self, skip_special_tokens: bool, prompt: &[u32]) -> Detokenizer {
        self.detokenizer(skip_special_tokens, prompt).showing(Arc::clone(&self.markers))
    }

    /// Compiles what an answer must look like.
    pub fn grammars(&self) -> &GrammarCompiler {
        &self.grammars
    }

    /// The ids that end a text, sorted.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.generation.eos_token_ids
    }

    /// Renders messages to the prompt that the model was trained on.
    pub fn render_chat(&self, input: &ChatInput) -> Result<String, TextError> {
        self.templates.render(input)
    }

    /// See [`Tokenizer::encode`].
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, add_special_tokens)
    }

    /// See [`Tokenizer::encode_chat`].
    pub fn encode_chat(&self, text: &str, salt: Option<&str>) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode_chat(text, salt)
    }

    /// See [`Tokenizer::decode`].
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.tokenizer.decode(ids, skip_special_tokens)
    }

    /// A detokenizer for text that continues `prompt`. See [`Detokenizer::after`].
    pub fn detokenizer(&self, skip_special_tokens: bool, prompt: &[u32]) -> Detokenizer {
        Detokenizer::after(&self.tokenizer, skip_special_tokens, prompt)
    }
}

fn json(file: &str, bytes: Option<&Vec<u8>>) -> Result<Value, TextError> {
    match bytes {
        None => Ok(Value::Null),
        Some(bytes) => {
            serde_json::from_slice(bytes).map_err(|error| TextError::invalid(file, error))
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(TextError::Io { path: path.to_owned(), reason }),
    }
}

fn read_text(path: &Path) -> Result<Option<String>, TextError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes)
        .map_err(|error| TextError::invalid(path.display().to_string(), error.utf8_error()))?;
    Ok(Some(text))
}

fn read_templates(dir: &Path) -> Result<BTreeMap<String, String>, TextError> {
    let io = |reason| TextError::Io { path: dir.to_owned(), reason };
    let mut templates = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(templates),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "jinja")
            && let Some(text) = read_text(&path)?
        {
            templates.insert(name.to_owned(), text);
        }
    }
    Ok(templates)
}
