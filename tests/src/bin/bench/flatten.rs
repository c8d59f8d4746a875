//! Images: five layers to one disk, beside unpacking the same layers with tar.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use husk_tests::Bed;
use husk_tests::image::{Image, Layer, Packing};

use super::containers::husk;
use super::report::{Report, median, ratio};

const LAYERS: usize = 5;
const FILES_A_LAYER: usize = 400;
const FILE_BYTES: usize = 50 << 10;
/// A file system in memory.
const MEMORY: &str = "/dev/shm";

/// `husk load` of 100 MB over `tar x` of the same layers into memory.
pub fn against_tar(bed: &Bed, runs: usize, report: &mut Report) -> Result<()> {
    for (name, packing) in [("plain", Packing::Tar), ("gzip", Packing::Gzip)] {
        let (layout, tars) = make(bed, name, packing)?;
        let (mut husk_times, mut tar_times) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            tar_times.push(unpack(&tars)?);
            husk_times.push(load(bed, &layout)?);
        }
        let (husk, tar) = (median(&husk_times), median(&tar_times));
        report.time(&format!("husk load, 100 MB in 5 layers, {name}"), husk);
        report.time(&format!("tar x of the same layers, {name}"), tar);
        report.add(&format!("load over tar, {name}"), ratio(husk, tar), "x", Some(2.0));
    }
    Ok(())
}

/// An OCI layout, and its layers as tar files.
fn make(bed: &Bed, name: &str, packing: Packing) -> Result<(String, Vec<PathBuf>)> {
    let (mut image, mut tars) = (Image::new(), Vec::new());
    for number in 0..LAYERS {
        let layer = layer(number);
        let path = bed.path(&format!("{name}-{number}.tar"));
        std::fs::write(&path, packing.pack(&layer.to_tar()))?;
        tars.push(path);
        image = image.layer(&layer, packing);
    }
    let folder = bed.path(name);
    image.write_layout(&folder, "latest")?;
    Ok((format!("oci:{}", folder.display()), tars))
}

/// Text that compresses as programs do, in files of 50 KiB.
fn layer(number: usize) -> Layer {
    let mut layer = Layer::new();
    for file in 0..FILES_A_LAYER {
        let folder = format!("usr/share/{number}/{}", file / 50);
        if file % 50 == 0 {
            layer = layer.dir(&folder, 0o755);
        }
        let mut content = Vec::with_capacity(FILE_BYTES + 32);
        while content.len() < FILE_BYTES {
            let word = (content.len() * 2_654_435_761 + file * 40_503 + number) % 65_521;
            content.extend_from_slice(format!("line {word:x} of file {file}\n").as_bytes());
        }
        content.truncate(FILE_BYTES);
        layer = layer.file(&format!("{folder}/{file}"), 0o644, content);
    }
    layer
}

fn unpack(tars: &[PathBuf]) -> Result<Duration> {
    let folder = tempfile::tempdir_in(MEMORY).context(MEMORY)?;
    let began = Instant::now();
    for tar in tars {
        let status =
            Command::new("tar").arg("xf").arg(tar).arg("-C").arg(folder.path()).status()?;
        ensure!(status.success(), "tar x {}: {status}", tar.display());
    }
    Ok(began.elapsed())
}

fn load(bed: &Bed, layout: &str) -> Result<Duration> {
    let began = Instant::now();
    let output = husk(bed, &["load", "-q", layout]).stderr(Stdio::inherit()).output()?;
    let took = began.elapsed();
    ensure!(output.status.success(), "husk load: {}", output.status);
    let id = String::from_utf8(output.stdout)?;
    let removed = husk(bed, &["rmi", "-f", id.trim()]).stdout(Stdio::null()).status()?;
    ensure!(removed.success(), "husk rmi: {removed}");
    Ok(took)
}
