//! Chunks, tables and lists of chunks that lie, their checksums made to fit.

use qstore_container::{ChunkForm, ChunkRecord, write_chunks};

use crate::damage::spread;
use crate::forge::{Chunks, Twist};
use crate::forged_plan::{forged, keys};
use crate::judge::{Report, alone};
use crate::stores;

/// A way to spoil the chunks of an array; false if it does not apply to these.
type Spoil = fn(&mut Chunks) -> bool;

fn data(chunks: &mut Chunks) -> Option<&mut (ChunkForm, Vec<u8>)> {
    chunks.iter_mut().find(|(form, _)| *form != ChunkForm::Head)
}

fn coded(chunks: &mut Chunks, spoil: impl FnOnce(&mut Vec<u8>)) -> bool {
    let found = data(chunks).filter(|(form, _)| *form == ChunkForm::Coded);
    found.map(|(_, bytes)| spoil(bytes)).is_some()
}

fn head(chunks: &mut Chunks, spoil: impl FnOnce(&mut Vec<u8>)) -> bool {
    let found = chunks.first_mut().filter(|(form, _)| *form == ChunkForm::Head);
    found.map(|(_, bytes)| spoil(bytes)).is_some()
}

const SPOILS: [(&str, Spoil); 27] = [
    ("form swapped", |c| {
        data(c)
            .map(|(form, _)| *form = if *form == ChunkForm::Raw { ChunkForm::Coded } else { ChunkForm::Raw })
            .is_some()
    }),
    ("data as head", |c| data(c).map(|(form, _)| *form = ChunkForm::Head).is_some()),
    ("head as data", |c| {
        let Some((form, _)) = c.first_mut().filter(|(form, _)| *form == ChunkForm::Head) else {
            return false;
        };
        *form = ChunkForm::Coded;
        true
    }),
    ("no chunk", |c| c.pop().is_some()),
    ("a chunk more", |c| {
        let Some(last) = c.last().cloned() else { return false };
        c.push(last);
        true
    }),
    ("an empty chunk", |c| data(c).map(|(_, bytes)| bytes.clear()).is_some()),
    ("a byte less", |c| data(c).map(|(_, bytes)| bytes.pop()).is_some()),
    ("a byte more", |c| data(c).map(|(_, bytes)| bytes.push(0)).is_some()),
    ("two bytes more", |c| data(c).map(|(_, bytes)| bytes.extend([0, 0])).is_some()),
    ("4 MB more", |c| data(c).map(|(_, bytes)| bytes.extend(vec![7; 4_000_000])).is_some()),
    ("a raw chunk of double length", |c| {
        data(c)
            .map(|(form, bytes)| {
                *form = ChunkForm::Raw;
                bytes.extend(bytes.clone());
            })
            .is_some()
    }),
    ("zeros", |c| coded(c, |bytes| bytes.fill(0))),
    ("ones", |c| coded(c, |bytes| bytes.fill(0xff))),
    ("reversed", |c| coded(c, |bytes| bytes.reverse())),
    ("4 billion exceptions", |c| coded(c, |bytes| bytes[..4].fill(0xff))),
    ("one more exception", |c| coded(c, |bytes| bytes[0] = bytes[0].wrapping_add(1))),
    ("one less exception", |c| coded(c, |bytes| bytes[0] = bytes[0].wrapping_sub(1))),
    ("a part of 4 GB", |c| coded(c, |bytes| bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes()))),
    ("low halves of 17 bits", |c| {
        coded(c, |bytes| {
            // Only F32 has them; elsewhere this is a byte like any.
            let at = 4 + u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
            if let Some(width) = bytes.get_mut(at) {
                *width = 17;
            } else {
                bytes[0] ^= 0x55;
            }
        })
    }),
    ("a zstd frame of another length", |c| {
        coded(c, |bytes| *bytes = zstd::bulk::compress(&[5; 100], 3).unwrap())
    }),
    ("a zstd frame of 256 MB", |c| {
        coded(c, |bytes| *bytes = zstd::bulk::compress(&vec![5; 256 << 20], 1).unwrap())
    }),
    ("no head", |c| head(c, Vec::clear)),
    ("no tables", |c| head(c, |bytes| bytes[0] = 0)),
    ("255 tables", |c| head(c, |bytes| bytes[0] = 255)),
    ("a head with more behind", |c| head(c, |bytes| bytes.push(0))),
    ("a head cut short", |c| head(c, |bytes| bytes.truncate(bytes.len() - 1))),
    ("a head of 4 MB", |c| head(c, |bytes| bytes.resize(4_000_000, 0x11))),
];

#[test]
fn spoiled_chunks() {
    let _alone = alone();
    let mut report = Report::default();
    for variant in ["int8", "bf16"] {
        for (key, kind) in keys(stores::small(), variant) {
            for (what, spoil) in SPOILS {
                let mut applies = false;
                let noticed = forged(stores::small(), |f| {
                    let chunks = f.chunks(variant, &key);
                    let before = chunks.clone();
                    applies = kind != "reference" && spoil(chunks) && *chunks != before;
                });
                let result = match noticed {
                    Ok(false) if applies => Err("nobody noticed".to_owned()),
                    other => other.map(drop),
                };
                if applies {
                    report.add(&format!("{variant} {key} ({kind}): {what}"), result);
                }
            }
        }
    }
    report.finish(250);
}

/// Bits flipped behind the checksums: what the decoders make of it must be noticed or be the same.
#[test]
fn flipped_bits_with_checksums_that_fit() {
    let _alone = alone();
    let mut report = Report::default();
    for variant in ["int8", "bf16"] {
        for (key, kind) in keys(stores::small(), variant) {
            if kind == "reference" {
                continue;
            }
            let chunks = crate::forge::Forgery::of(&stores::small().store).chunks(variant, &key).clone();
            for (index, (_, bytes)) in chunks.iter().enumerate() {
                for at in spread(0..bytes.len(), 40) {
                    let result = forged(stores::small(), |f| {
                        f.chunks(variant, &key)[index].1[at] ^= 1 << (at * 5 % 8);
                    });
                    report
                        .add(&format!("{variant} {key} ({kind}) chunk {index} byte {at}"), result.map(drop));
                }
            }
        }
    }
    report.finish(500);
}

/// Exceptions are the one part of a chunk that says where to write.
#[test]
fn exceptions_outside_the_chunk() {
    let _alone = alone();
    let mut report = Report::default();
    let key = "tensor:model.layers.0.mlp.up_proj.weight";
    let chunk = crate::forge::Forgery::of(&stores::small().store).chunks("bf16", key)[1].1.clone();
    let count = u32::from_le_bytes(chunk[..4].try_into().unwrap()) as usize;
    assert!(count > 3, "the sample has {count} exceptions");
    // The value of an exception in the sample, which nothing else in the chunk has twice in the right distance.
    let value = [0x81, 0x7f];
    let first = chunk.windows(8).position(|w| w[..2] == value && w[6..] == value).unwrap() - 4;
    for index in [60 * 256, 60 * 256 - 1, u32::MAX, 1 << 31] {
        let result = forged(stores::small(), |f| {
            f.chunks("bf16", key)[1].1[first..first + 4].copy_from_slice(&index.to_le_bytes());
        });
        let result =
            result.and_then(|noticed| if noticed { Ok(()) } else { Err("nobody noticed".to_owned()) });
        report.add(&format!("an exception at {index}"), result);
    }
    report.finish(4);
}

#[test]
fn lists_of_chunks_that_lie() {
    let _alone = alone();
    let mut report = Report::default();
    let mut add = |label: &str, twist: Twist| {
        for variant in ["int8", "bf16"] {
            let result = forged(stores::small(), |f| f.last(variant).twist = twist.clone());
            let result =
                result.and_then(|noticed| if noticed { Ok(()) } else { Err("nobody noticed".to_owned()) });
            report.add(&format!("{variant}: {label}"), result);
        }
    };
    let records: [(&str, fn(&mut Vec<ChunkRecord>)); 11] = [
        ("all lengths 4 GB", |r| r.iter_mut().for_each(|r| r.length = u32::MAX)),
        ("all lengths 0", |r| r.iter_mut().for_each(|r| r.length = 0)),
        ("a byte from the first to the second", |r| {
            r[0].length -= 1;
            r[1].length += 1;
        }),
        ("a byte from the last to the one before", |r| {
            let last = r.len() - 1;
            r[last].length += 1;
            r[last - 1].length -= 1;
        }),
        ("no checksums", |r| r.iter_mut().for_each(|r| r.checksum = 0)),
        ("one less", |r| r.truncate(r.len() - 1)),
        ("one more", |r| r.push(r[0])),
        ("none", Vec::clear),
        ("reversed", |r| r.reverse()),
        ("a million more", |r| r.extend(vec![r[0]; 1_000_000])),
        ("all heads", |r| r.iter_mut().for_each(|r| r.form = ChunkForm::Head)),
    ];
    for (what, change) in records {
        add(what, Twist::Records(change));
    }
    let mut odd = write_chunks(&[ChunkRecord::of(ChunkForm::Raw, b"x").unwrap()]);
    odd[4] = 3;
    add("an unknown form", Twist::ChunkList(odd.clone()));
    odd[4] = 2;
    odd[6] = 1;
    add("a reserved byte in use", Twist::ChunkList(odd.clone()));
    add("a record cut short", Twist::ChunkList(odd[..15].to_vec()));
    report.finish(28);
}
