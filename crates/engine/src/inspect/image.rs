//! An image in docker's JSON.

use std::collections::BTreeMap;

use hull_image::Image;
use hull_snapshot::{Driver, Snapshotter};
use serde::Serialize;
use serde_json::{Value, json};

use crate::builtin;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::record::Builtin;

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    pub created: Option<String>,
    pub docker_version: String,
    pub author: String,
    /// The image's own words: its configuration's `config` section, unchanged.
    pub config: Value,
    pub architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    pub os: String,
    pub size: u64,
    pub graph_driver: GraphDriverInspect,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFsInspect,
    pub metadata: ImageMetadata,
}

/// Where the unpacked layers are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct GraphDriverInspect {
    pub name: String,
    /// `UpperDir` is where the topmost layer is kept, `LowerDir` where those below it are, topmost first, colons between;
    /// `null` while a layer is not unpacked, or where there is none.
    pub data: Option<BTreeMap<String, String>>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct RootFsInspect {
    #[serde(rename = "Type")]
    pub kind: String,
    pub layers: Vec<String>,
}

/// What is not part of the image itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "the names and meanings are those of docker's API description")]
pub struct ImageMetadata {
    pub last_tag_time: String,
}

impl Engine {
    /// Everything about an image.
    ///
    /// # Errors
    /// [`EngineError::NoSuchImage`]; a configuration that cannot be read.
    pub fn inspect_image(&self, name: &str) -> Result<ImageInspect, EngineError> {
        if let Some(image) = Builtin::named(name) {
            return Ok(inspect_builtin(name, image));
        }
        let images = self.image_store();
        let image = images.resolve(name)?.ok_or_else(|| EngineError::NoSuchImage { name: name.to_owned() })?;
        let raw: Value = serde_json::from_slice(&images.configuration_bytes(&image.id)?)
            .map_err(|source| EngineError::ImageConfiguration { id: image.id.clone(), source })?;
        let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(ImageInspect {
            id: image.id.to_string(),
            repo_tags: image.tags(),
            repo_digests: image.digests(),
            parent: String::new(),
            comment: text("comment"),
            created: image.created.map(|created| created.to_string()),
            docker_version: text("docker_version"),
            author: text("author"),
            config: raw.get("config").cloned().unwrap_or(Value::Null),
            architecture: text("architecture"),
            variant: raw.get("variant").and_then(Value::as_str).map(str::to_owned),
            os: text("os"),
            size: image.size_bytes,
            graph_driver: self.graph_driver(&image)?,
            root_fs: RootFsInspect {
                kind: "layers".to_owned(),
                layers: image.layers.iter().map(|layer| layer.diff_id.to_string()).collect(),
            },
            metadata: ImageMetadata { last_tag_time: image.stored_at.to_string() },
        })
    }
}

impl Engine {
    fn graph_driver(&self, image: &Image) -> Result<GraphDriverInspect, EngineError> {
        let snapshots = self.snapshots();
        let mut driver = None;
        let mut folders = Vec::with_capacity(image.layers.len());
        for layer in image.layers.iter().rev() {
            let id = snapshots.layer(layer.chain_id.as_str())?;
            let place = |driver: Driver| Some(self.roots().snapshots().join(driver.name()).join(id.as_ref()?.as_str()));
            let kept = Driver::ALL.into_iter().find(|driver| place(*driver).is_some_and(|folder| folder.is_dir()));
            let Some(folder) = kept.and_then(place) else {
                return Ok(GraphDriverInspect { name: self.storage_driver()?.to_string(), data: None });
            };
            driver = driver.or(kept);
            folders.push(folder.display().to_string());
        }
        let name = driver.map_or_else(|| self.storage_driver(), Ok)?.to_string();
        let mut data = BTreeMap::new();
        if let Some((upper, lowers)) = folders.split_first() {
            data.insert("UpperDir".to_owned(), upper.clone());
            if !lowers.is_empty() {
                data.insert("LowerDir".to_owned(), lowers.join(":"));
            }
        }
        Ok(GraphDriverInspect { name, data: (!data.is_empty()).then_some(data) })
    }
}

/// A built-in image has no configuration of its own, no layers and no id.
fn inspect_builtin(name: &str, image: Builtin) -> ImageInspect {
    let config = builtin::config(image);
    let host = hull_oci::Platform::host();
    ImageInspect {
        id: String::new(),
        repo_tags: vec![name.to_owned()],
        repo_digests: Vec::new(),
        parent: String::new(),
        comment: "built into Hull".to_owned(),
        created: None,
        docker_version: String::new(),
        author: String::new(),
        config: json!({ "Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd }),
        architecture: host.architecture,
        variant: host.variant,
        os: host.os,
        size: 0,
        graph_driver: GraphDriverInspect { name: "builtin".to_owned(), data: None },
        root_fs: RootFsInspect { kind: "layers".to_owned(), layers: Vec::new() },
        metadata: ImageMetadata { last_tag_time: String::from("0001-01-01T00:00:00Z") },
    }
}
