//! `hull history`: how an image was made, its newest step first.
//!
//! The steps are the configuration's `history`; those that made a layer have, in order, the sizes of the image's
//! layers. A configuration may have fewer steps than layers, since its history need not be there: the layers left over
//! are steps of which nothing is known. Only the newest step has an id, the image's own.

use hull_image::Image;
use hull_image::archive::OtherPlatform;
use hull_oci::Platform;
use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::EngineError;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The image's id; `None` for all steps but the newest.
    pub id: Option<String>,
    /// When, if it is said.
    pub created: Option<Timestamp>,
    /// By which command.
    pub created_by: String,
    /// What its files take unpacked, in bytes.
    pub size_bytes: u64,
    /// A note.
    pub comment: String,
    /// The image's names, of the newest step.
    pub tags: Vec<String>,
}

impl Engine {
    /// The steps of an image, newest first.
    ///
    /// # Errors
    /// No such image, or one for another platform than asked for.
    pub fn history(&self, name: &str, platform: Option<&str>) -> Result<Vec<HistoryLine>, EngineError> {
        let images = self.image_store();
        let image = images.resolve(name)?.ok_or_else(|| EngineError::NoSuchImage { name: name.to_owned() })?;
        OtherPlatform::check(name, &image, platform.map(Platform::parse).transpose()?.as_ref())?;
        Ok(lines(&image, &images.layer_sizes(&image.id)?))
    }
}

/// The steps of an image whose layers take `sizes` bytes, lowest first.
fn lines(image: &Image, sizes: &[u64]) -> Vec<HistoryLine> {
    let mut sizes = sizes.iter().copied();
    let mut lines = Vec::new();
    for step in image.config.history().iter().flatten() {
        let is_empty = step.empty_layer().unwrap_or(false);
        lines.push(HistoryLine {
            id: None,
            created: step.created().as_ref().and_then(|text| text.parse().ok()),
            created_by: step.created_by().clone().unwrap_or_default(),
            size_bytes: if is_empty { 0 } else { sizes.next().unwrap_or(0) },
            comment: step.comment().clone().unwrap_or_default(),
            tags: Vec::new(),
        });
    }
    lines.extend(sizes.map(|size_bytes| HistoryLine {
        id: None,
        created: image.created,
        created_by: String::new(),
        size_bytes,
        comment: String::new(),
        tags: Vec::new(),
    }));
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest.id = Some(image.id.to_string());
        newest.tags = image.tags();
    }
    lines
}
