//! Finds a model's files: a local folder, the Hugging Face cache, or a download.

use crate::config::HubConfig;
use anyhow::{Context, Result, bail};
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Path, PathBuf};

/// What of a repository is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// Configuration, tokenizer and templates.
    Metadata,
    /// These and the weights.
    All,
}

/// The local folder of `model`: the folder itself, or a snapshot of the hub repository.
pub(crate) fn locate(model: &str, hub: &HubConfig, files: Files) -> Result<PathBuf> {
    let path = Path::new(model);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() {
        bail!("{model} is a file: give the folder that holds config.json");
    }
    if !is_hub_id(model) {
        bail!(
            "model `{model}`: no such folder, and not a hub id (org/name); give a folder with \
             config.json, a hub id, or `spark` for the embedded model"
        );
    }
    let repo = Repo::with_revision(model.to_owned(), RepoType::Model, hub.revision.clone());
    if hub.offline { cached(repo, hub) } else { download(repo, hub, files) }
}

/// `org/name`, nothing that could be meant as a path.
fn is_hub_id(model: &str) -> bool {
    let valid = |part: &str| {
        let first = part.chars().next();
        first.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.contains("..")
    };
    model.split_once('/').is_some_and(|(org, name)| valid(org) && valid(name))
}

fn cached(repo: Repo, hub: &HubConfig) -> Result<PathBuf> {
    let id = repo.url();
    let config = Cache::new(hub.cache_dir.clone()).repo(repo).get("config.json");
    let config = config.with_context(|| {
        format!(
            "{id} is not in the cache {} and HF_HUB_OFFLINE is set: unset it, or copy the model \
             to a folder and give its path",
            hub.cache_dir.display()
        )
    })?;
    Ok(config.parent().expect("a file of a snapshot has a folder").to_owned())
}

fn download(repo: Repo, hub: &HubConfig, files: Files) -> Result<PathBuf> {
    let id = repo.url();
    let mut builder = ApiBuilder::from_cache(Cache::new(hub.cache_dir.clone()))
        .with_token(hub.token.clone())
        .with_retries(3)
        .with_progress(true);
    if let Some(endpoint) = &hub.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let api = builder.build().context("the hub client could not be made")?.repo(repo.clone());
    let listing = match api.info() {
        Ok(listing) => listing,
        Err(error) => return without_hub(&id, &error, repo, hub),
    };
    let names: Vec<_> = listing.siblings.into_iter().map(|file| file.rfilename).collect();
    if !names.iter().any(|name| name == "config.json") {
        bail!("{id} has no config.json: it is not a transformers model");
    }
    for name in wanted(&names, files) {
        fetch(&api, &id, name)?;
    }
    let config = fetch(&api, &id, "config.json")?;
    Ok(config.parent().expect("a file of a snapshot has a folder").to_owned())
}

/// The hub cannot be asked: a complete cache still serves, anything else is an error.
fn without_hub(id: &str, error: &ApiError, repo: Repo, hub: &HubConfig) -> Result<PathBuf> {
    if let Ok(folder) = cached(repo, hub) {
        tracing::warn!("{id}: the hub did not answer ({error}); serving the cached snapshot");
        return Ok(folder);
    }
    let text = error.to_string();
    let advice = if text.contains("401") || text.contains("403") {
        "the model is gated or private: accept its terms on the hub and set HF_TOKEN"
    } else if text.contains("404") {
        "no such model or revision: check the spelling"
    } else {
        "check the network (HF_ENDPOINT names a mirror), or copy the model to a folder and give \
         its path"
    };
    bail!("{id} could not be looked up on the hub: {text}; {advice}")
}

fn fetch(api: &ApiRepo, id: &str, name: &str) -> Result<PathBuf> {
    api.get(name).with_context(|| {
        format!("{id}: downloading {name} failed; run again (finished files are kept)")
    })
}

/// Weights are taken as safetensors only; `consolidated*` is a second copy of them.
fn wanted(names: &[String], files: Files) -> impl Iterator<Item = &str> {
    names.iter().map(String::as_str).filter(move |name| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        let weights = extension == Some("safetensors");
        let metadata = matches!(extension, Some("json" | "jinja"));
        let is_read = match name.split_once('/') {
            None | Some(("additional_chat_templates", _)) => true,
            // A module of sentence-transformers, as `1_Pooling`.
            Some((folder, "config.json")) => folder.starts_with(|c: char| c.is_ascii_digit()),
            Some(_) => false,
        };
        let wanted = metadata || (weights && files == Files::All);
        is_read && wanted && !name.starts_with("consolidated")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for id in ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.2-1B", "a/b_c.d"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["models/golden/qwen3/x", "./a/b", "../a", "/a/b", "a", "", "a/", "a/..", "~/x"]
        {
            assert!(!is_hub_id(path), "{path}");
        }
    }

    #[test]
    fn fetches_what_is_needed_and_no_second_copy() {
        let names: Vec<String> = [
            "config.json",
            "model.safetensors",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "onnx/config.json",
            "1_Pooling/config.json",
            "additional_chat_templates/rag.jinja",
            "README.md",
        ]
        .map(String::from)
        .to_vec();
        let all: Vec<_> = wanted(&names, Files::All).collect();
        let templates = "additional_chat_templates/rag.jinja";
        let pooling = "1_Pooling/config.json";
        assert_eq!(all, ["config.json", "model.safetensors", pooling, templates]);
        let metadata: Vec<_> = wanted(&names, Files::Metadata).collect();
        assert_eq!(metadata, ["config.json", pooling, templates]);
    }
}
