//! An OCI layout: which of its images is for this machine, its layers, and what it says of the command to run.
//!
//! Modelled: indexes in indexes, images by platform, Docker's names for the same kinds. Left out: encrypted layers, signatures, a
//! layout of several images of which one would have to be chosen.
//! Sources: OCI Image Specification "Image Index", "Image Manifest", "Image Configuration".

use super::blobs::{self, Blobs, Descriptor, text};
use super::error::{Problem, listed, shown};
use serde_json::Value;
use std::path::Path;

/// The platform that is looked for, by the names of the specification.
const PLATFORM: (&str, &str) = ("linux", "amd64");
/// Most documents that are read to find an image.
const DOCUMENTS_MAX: usize = 64;
/// Most descriptors that are looked at for it: a document of 4 MiB has room for very many, and each is compared with all others.
const DESCRIPTORS_MAX: usize = 4096;
/// Most layers.
const LAYERS_MAX: usize = 512;

/// What an image says of the command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageCommand {
    /// The command and its arguments; empty for none.
    pub words: Vec<String>,
    /// Its environment, `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Where it begins; empty for the root.
    pub directory: String,
    /// As whom it is to run; empty for root.
    pub user: String,
}

/// An image of the layout.
pub struct Image {
    /// What to run.
    pub command: ImageCommand,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Whether a directory is a layout.
pub fn is_layout(directory: &Path) -> bool {
    directory.join("oci-layout").is_file()
}

/// Finds the image for this platform.
///
/// # Errors
/// There is none, or more than one; or the layout makes no sense.
pub fn image(layout: &Path, blobs: &Blobs) -> Result<Image, Problem> {
    let manifest = blobs.document(&choose(layout, blobs)?)?;
    let configuration = blobs.document(&Descriptor::of(&manifest["config"])?)?;
    let (os, architecture) = (text(&configuration["os"]), text(&configuration["architecture"]));
    if (os.as_str(), architecture.as_str()) != PLATFORM {
        return Err(Problem::Layout(format!("its image is for {} on {}", shown(os), shown(architecture))));
    }
    let layers = Descriptor::list(&manifest["layers"])?;
    if layers.len() > LAYERS_MAX {
        return Err(Problem::Layout(format!("{} layers: {LAYERS_MAX} at most", layers.len())));
    }
    if let Some(layer) = layers.iter().find(|layer| !is_layer(&layer.media_type)) {
        return Err(Problem::Layout(format!("a layer of kind \"{}\" is not known", shown(&layer.media_type))));
    }
    Ok(Image { command: command(&configuration["config"])?, layers })
}

/// The manifest of the one image that is for this platform, or for none that is named.
fn choose(layout: &Path, blobs: &Blobs) -> Result<Descriptor, Problem> {
    let mut open = Descriptor::list(&blobs::document(&layout.join("index.json"))?["manifests"])?;
    let (mut found, mut others, mut read) = (Vec::<Descriptor>::new(), Vec::new(), 0);
    let is_too_much = |count: usize| match count {
        ..=DESCRIPTORS_MAX => Ok(()),
        _ => Err(Problem::Layout(format!("more than {DESCRIPTORS_MAX} images"))),
    };
    is_too_much(open.len())?;
    while let Some(descriptor) = open.pop() {
        match &descriptor.platform {
            Some((os, architecture)) if (os.as_str(), architecture.as_str()) != PLATFORM => {
                others.push(format!("{os} on {architecture}"));
            }
            _ if is_index(&descriptor.media_type) => {
                read += 1;
                if read > DOCUMENTS_MAX {
                    return Err(Problem::Layout(format!("more than {DOCUMENTS_MAX} indexes")));
                }
                open.extend(Descriptor::list(&blobs.document(&descriptor)?["manifests"])?);
                is_too_much(open.len() + found.len() + others.len())?;
            }
            _ if found.iter().any(|other| other.digest == descriptor.digest) => {}
            _ => found.push(descriptor),
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] if others.is_empty() => Err(Problem::Layout("it has no image".into())),
        [] => Err(Problem::Layout(format!("it has no image for linux on amd64, but for {}", listed(&others)))),
        several => {
            let name = |image: &Descriptor| image.reference.clone().unwrap_or_else(|| image.digest.clone());
            let names: Vec<_> = several.iter().map(name).collect();
            Err(Problem::Layout(format!(
                "it has {} images ({}): copy one into a layout of its own (skopeo copy oci:DIR:NAME oci:NEW)",
                names.len(),
                listed(&names)
            )))
        }
    }
}

fn is_index(media_type: &str) -> bool {
    let docker = "application/vnd.docker.distribution.manifest.list.v2+json";
    media_type == "application/vnd.oci.image.index.v1+json" || media_type == docker
}

/// Layers are unpacked by what they hold; the type only tells that one is a layer, and not a sealed one.
fn is_layer(media_type: &str) -> bool {
    let kinds = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let packed = |rest: &str| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd");
    kinds.iter().any(|kind| media_type.strip_prefix(kind).is_some_and(packed))
}

fn command(found: &Value) -> Result<ImageCommand, Problem> {
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let command = ImageCommand {
        words: [texts(&found["Entrypoint"]), texts(&found["Cmd"])].concat(),
        environment: texts(&found["Env"]),
        directory: text(&found["WorkingDir"]),
        user: text(&found["User"]),
    };
    let ImageCommand { words, environment, directory, user } = &command;
    if words.iter().chain(environment).chain([directory, user]).any(|text| text.contains('\0')) {
        return Err(Problem::Layout("a zero byte in what it says of the command".into()));
    }
    Ok(command)
}
