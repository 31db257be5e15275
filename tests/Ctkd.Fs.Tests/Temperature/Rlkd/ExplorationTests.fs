/// High-quality images, mixed (F22, F24, B8).
module Ctkd.Fs.Tests.ExplorationTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference

let private mixing (config: RlkdConfig) : RlkdMixing = Option.get config.Mixing

let private chosen (struct (dominant, partner): struct (Tensor * Tensor)) =
    Array.map float (Tensor.toInt64s dominant), Array.map float (Tensor.toInt64s partner)

/// A batch of the images at these positions; their pixels are not read.
let private batchOf (index: int64[]) : Batch = {
    Images = Tensor.zeros DType.Float64 Device.Cpu [| int64 index.Length; 3L; 2L; 2L |]
    Labels = Tensor.zeros DType.Int64 Device.Cpu [| int64 index.Length |]
    Index = Tensor.ofInt64s [ index.Length ] index
    Mix = None
}

let tests =
    testList "Exploration" [
        test "exactly a tenth of the images is mixed, at the dominant ones' places with both labels by weight" {
            Tensor.scoped (fun () ->
                let mixing = Option.get RlkdConfig.paper.Mixing
                let set = images 3 40 4 8

                let struct (dominant, partner) = Exploration.select mixing (normals 2 [ 40 ])
                let third = [ 0.5; 0.5; 0.5 ]
                let given = Augment.upload DType.Float64 Device.Cpu third third set
                let pixels = given.Images
                let shown = Exploration.mix mixing DType.Float64 dominant partner given
                let mix = Option.get shown.Mix
                let places, partners = Tensor.toInt64s dominant, Tensor.toInt64s partner
                Must.equal 4 places.Length
                Must.equal (ImageSet.bytes set) (Tensor.toBytes pixels)
                Must.equal (Tensor.shape pixels) (Tensor.shape shown.Images)

                let rowsOf (x: Tensor) = Tensor.toBytes x |> Array.chunkBySize (3 * 8 * 8)
                let changed = Array.map2 (<>) (rowsOf pixels) (rowsOf shown.Images)

                let changedAt = [
                    for i in 0..39 do
                        if changed[i] then int64 i
                ]
                // The first pair has the weight 1: its image stays.
                Must.equal (List.sort (List.tail (List.ofArray places))) changedAt

                let weight, other = Tensor.toFloats mix.Weight, Tensor.toInt64s mix.Other
                let clean = Tensor.toBytes mix.Clean

                for i in 0..39 do
                    match Array.tryFindIndex ((=) (int64 i)) places with
                    | None -> Must.equal (1.0, 1uy) (weight[i], clean[i])
                    | Some rank ->
                        Must.beNear 1e-12 0.0 (1.0 - 0.3 * float rank / 4.0) weight[i]
                        Must.equal (int64 set.Labels[int partners[rank]], 0uy) (other[i], clean[i])
            )
        }

        test "the mixed cross entropy weighs both labels, and is the usual one for unmixed images" {
            Tensor.scoped (fun () ->
                let logits, labels = normals 1 [ 3; 4 ], Inputs.ofLabels [| 0; 1; 2 |]

                let own = Tensor.crossEntropyEach labels logits |> Tensor.toFloats

                let other = Tensor.crossEntropyEach (Inputs.ofLabels [| 3; 3; 3 |]) logits |> Tensor.toFloats

                let weights = [| 0.85; 0.7; 1.0 |]

                let mixed = Loss.mixedCrossEntropy (row weights) (Inputs.ofLabels [| 3; 3; 3 |]) labels logits

                let expected =
                    Array.init 3 (fun i -> weights[i] * own[i] + (1.0 - weights[i]) * other[i]) |> Array.average

                Must.beNear 1e-12 0.0 expected (Tensor.toFloat mixed)
            )
        }

        test "entropies of mixed images are not recorded" {
            Tensor.scoped (fun () ->
                let table = row [| -1.0; -1.0; -1.0 |]
                let batch = batchOf [| 2L; 0L |]

                let mix = {
                    Other = Inputs.ofLabels [| 0; 0 |]
                    Weight = row [| 0.8; 1.0 |]
                    Clean = row [| 0.0; 1.0 |] |> Tensor.eqNumber 1.0
                }

                Exploration.record RlkdHistory.Latest 3 { batch with Mix = Some mix } (row [| 5.0; 6.0 |]) table

                Must.beSame [| 6.0; -1.0; -1.0 |] (Tensor.toFloats table)
                Exploration.record RlkdHistory.Latest 4 batch (row [| 5.0; 7.0 |]) table
                Must.beSame [| 7.0; -1.0; 5.0 |] (Tensor.toFloats table)
            )
        }

        test "images by rank of their entropies" {
            reading (fun expected ->
                let entropies epoch = vector 20 (fun i -> 2.0 + sin (1.1 * i + 0.3 * float epoch) + 0.01 * i)
                let batch = batchOf [| 0L .. 19L |]

                let table history =
                    let table = Plain.tensor [ 20 ] (Array.create 20 -1.0)

                    for epoch in 0..3 do
                        Exploration.record history (epoch + 1) batch (entropies epoch) table

                    table

                let mean = table RlkdHistory.Mean
                let struct (_, order) = Tensor.topK 20 0 mean

                Must.equal (expected "recommended.ranking.order_desc") (Tensor.toInt64s order |> Array.map float)

                let official = Exploration.select (mixing RlkdConfig.official) mean |> chosen
                Must.equal (expected "ranking.dominant_10_20") (fst official)
                Must.equal (expected "ranking.partner_80_90") (snd official)
                let paper = Exploration.select (mixing RlkdConfig.paper) mean |> chosen
                Must.equal (expected "recommended.ranking.dominant_10_20") (fst paper)
                Must.equal (expected "recommended.ranking.partner_40_50") (snd paper)

                let latest = Exploration.select (mixing RlkdConfig.paper) (table RlkdHistory.Latest) |> chosen

                Must.equal [| 6.0; 1.0 |] (fst latest)
                Must.equal [| 11.0; 19.0 |] (snd latest)
            )
        }

        test "weights by rank, mixed pixels and their bytes" {
            reading (fun expected ->
                let weights = Exploration.weights (mixing RlkdConfig.paper) 5
                Must.beClose 1e-12 0.0 (expected "mixup.lam") weights
                let pixels key = Plain.tensor [ 5; 1 ] (expected key)

                let mixed = Exploration.mixed (Plain.tensor [ 5 ] weights) (pixels "mixup.rem") (pixels "mixup.lost")

                exactly (expected "recommended.mixup_float") mixed
                Must.equal (expected "mixup.out") (Exploration.bytes true mixed |> Tensor.toFloats)

                Must.equal [| 5.0; 28.0; 48.0; 64.0; 76.0 |] (Exploration.bytes false mixed |> Tensor.toFloats)
            )
        }
    ]
