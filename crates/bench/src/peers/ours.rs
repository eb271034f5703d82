//! QStore, through its library.

use std::sync::Arc;

use qstore::{Folder, Options, Silent, Storage, Store, Throttle, Throttled, VariantName, VariantSpec};

use super::{Peer, Runner, Work};
use crate::checkpoint::Checkpoint;
use crate::compare::{Loaded, Part, What};
use crate::error::{Error, Result};
use crate::job::Job;

pub(crate) struct Ours;

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn title(&self) -> &'static str {
        "QStore"
    }

    fn method(&self) -> &'static str {
        "`qstore pack` of all variants into one store, which decodes and compares every chunk before it commits; `qstore load` of each variant, \
         one after another, which checks every chunk's checksum. All through the library."
    }

    fn runs(&self) -> Runner<'_> {
        Runner::Here { work: self, version: format!("qstore {}", env!("CARGO_PKG_VERSION")) }
    }
}

impl Work for Ours {
    fn save(&self, job: &Job) -> Result<()> {
        let spec = |variant: &Checkpoint| Ok(VariantSpec::new(name_of(variant)?, variant.folder.clone()));
        let variants = job.variants.iter().map(spec).collect::<Result<Vec<_>>>()?;
        Ok(qstore::pack(&variants, &job.stored, &options(job).into(), &Silent)?)
    }

    fn load(&self, job: &Job) -> Result<Loaded> {
        let mut storage: Arc<dyn Storage> = Arc::new(Folder::new(&job.stored));
        if let Some(rate) = job.bytes_per_second {
            storage = Arc::new(Throttled::new(storage, Arc::new(Throttle::new(rate))));
        }
        let store = Store::open_in(storage)?;
        let mut loaded = Loaded::default();
        for variant in &job.variants {
            let open = store.variant(&name_of(variant)?)?;
            let tensors = qstore::load(&open, &options(job), &Silent)?;
            loaded.bytes_read += open.bytes_read();
            loaded.parts.extend(tensors.into_iter().map(|tensor| Part {
                variant: variant.name.clone(),
                what: What::Tensor(tensor.name),
                data: tensor.data,
            }));
        }
        Ok(loaded)
    }
}

fn name_of(variant: &Checkpoint) -> Result<VariantName> {
    variant.name.parse().map_err(|e| Error::Usage(format!("{e}")))
}

fn options(job: &Job) -> Options {
    Options { threads: job.threads, memory: job.memory }
}
