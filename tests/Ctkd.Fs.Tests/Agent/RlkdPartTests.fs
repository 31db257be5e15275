/// The parts of RLKD's agent by their properties.
module Ctkd.Fs.Tests.RlkdPartTests

open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp
open Xunit

let private seeds = Lessons.seeds
let private normals (seed: int) (shape: int list) : Tensor = Lessons.normal seed shape |> Expect.ofDense
let private row (values: float[]) : Tensor = Expect.tensor [ values.Length ] values

// ---- state ----------------------------------------------------------------------------------------

[<Fact>]
let ``uncertainty is 1 for equal logits, 0 for certain ones, and entropy is the uniform one's at most`` () =
    Tensor.scoped (fun () ->
        let seen (logits: float[]) =
            let logits = Expect.tensor [ 1; logits.Length ] logits
            Confidence.seen RlkdState.Uncertainty logits logits

        let equal, certain = seen [| 2.0; 2.0; 2.0 |], seen [| 900.0; 0.0; -900.0 |]
        Expect.near 1e-12 0.0 1.0 (Tensor.toFloat equal.Uncertainty)
        Expect.near 1e-12 0.0 (log 3.0) (Tensor.toFloat equal.Entropy)
        Expect.near 0.0 1e-12 0.0 (Tensor.toFloat certain.Uncertainty)
        Expect.near 0.0 1e-12 0.0 (Tensor.toFloat certain.Entropy)
    )

[<Fact>]
let ``states are in [0, 1] whatever the logits`` () =
    check
        logits
        (fun x ->
            let tensor values = Expect.tensor [ x.Rows; x.Classes ] values

            for form in [ RlkdState.Uncertainty; RlkdState.Confidences; RlkdState.SecondSmallest ] do
                let states =
                    Expect.numbers (fun () ->
                        (Confidence.seen form (tensor x.Teacher) (tensor x.Student)).State
                    )

                Assert.Equal(x.Rows * Confidence.width form, states.Length)
                Assert.All(states, fun s -> Assert.InRange(s, -1e-12, 1.0 + 1e-12))
        )

// ---- policy -----------------------------------------------------------------------------------------

[<Fact>]
let ``an untrained policy has the deviation of the released one for every state`` () =
    Tensor.scoped (fun () ->
        for spread in [ RlkdSpread.Head; RlkdSpread.Shared 10 ] do
            let pack = Actor.pack spread 3
            let p = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed 3) pack |> Pack.views pack
            let policy = Actor.forward spread p (normals 1 [ 5; 3 ])
            Assert.All(Tensor.toFloats policy.LogDeviation, fun s -> Expect.near 0.0 1e-12 -0.5 s)
            Assert.All(Tensor.toFloats policy.Mean, fun m -> Assert.InRange(m, -1.0, 1.0))
    )

[<Fact>]
let ``the draws of a batch equal those of each instance alone for the same noise`` () =
    check
        seeds
        (fun seed ->
            Tensor.scoped (fun () ->
                let pack = Actor.pack RlkdSpread.Head 3
                let p = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed seed) pack |> Pack.views pack
                let states = normals seed [ 6; 3 ]
                let noise = normals (seed + 1) [ 6 ]

                let draw noise states =
                    Actor.forward RlkdSpread.Head p states |> Actor.draw noise |> Actor.squash 0.1

                let one i =
                    draw (Tensor.slice 0 i (i + 1) noise) (Tensor.slice 0 i (i + 1) states)
                    |> Tensor.toFloat

                Expect.close 1e-12 0.0 (Array.init 6 one) (Tensor.toFloats (draw noise states))
            )
        )

[<Fact>]
let ``noise is standard normal and a function of its key`` () =
    Tensor.scoped (fun () ->
        let noise index = Actor.noise (Draws.key Device.Cpu index (Rng.ofSeed 5)) 20_000 |> Tensor.toFloats
        let values = noise 1
        Assert.InRange(Array.average values, -0.03, 0.03)
        Assert.InRange(values |> Array.averageBy (fun v -> v * v), 0.96, 1.04)
        // A normal distribution has 4.55 % beyond two deviations.
        Assert.InRange(values |> Array.averageBy (fun v -> if abs v > 2.0 then 1.0 else 0.0), 0.040, 0.051)
        Expect.same values (noise 1)
        Assert.NotEqual<float[]>(values, noise 2)
    )

[<Fact>]
let ``temperatures stay within their range however far the draw`` () =
    Tensor.scoped (fun () ->
        for dtype in [ DType.Float32; DType.Float64 ] do
            let z = Tensor.ofFloats dtype [ 6 ] [| -1e6; -20.0; 0.0; 20.0; 40.0; 1e6 |]

            Assert.All(
                Tensor.toFloats (Actor.squash 0.1 z),
                fun t -> Assert.True(t >= 0.0999 && t < 10.0, string t)
            )
    )

[<Fact>]
let ``the ratio's gradient is the same before and after the squashing`` () =
    // log N(z) + log |dz/dT| differs from log N(z) by what does not depend on the policy.
    Tensor.scoped (fun () ->
        let mean = Autograd.leaf (row [| 0.3; -0.2 |])
        let policy = { Mean = mean; LogDeviation = Expect.number -0.5 }
        let z = row [| 0.7; 0.1 |]
        let density = Actor.logLikelihood RlkdLikelihood.Draw z (Actor.squash 0.1 z) policy
        let slope = Autograd.gradients (Tensor.sum density) [| mean |] |> Array.head |> Tensor.toFloats
        let variance = exp -1.0
        Expect.close 1e-12 0.0 [| (0.7 - 0.3) / variance; (0.1 + 0.2) / variance |] slope
    )

// ---- advantages ----------------------------------------------------------------------------------------

[<Fact>]
let ``advantages and returns equal the recursions`` () =
    check
        (Gen.zip seeds (Gen.choose (1, 70)))
        (fun (seed, n) ->
            let numbers offset = Rng.ofSeed (seed + offset) |> Rng.normals n
            let rewards, values, beyond = numbers 0, numbers 1, 0.37
            let next = Array.append (Array.tail values) [| beyond |]
            let deltas = Array.init n (fun t -> rewards[t] + 0.99 * next[t] - values[t])

            let recursion share start xs =
                Array.scanBack (fun x sum -> x + share * sum) xs start |> Array.truncate n

            Tensor.scoped (fun () ->
                let beyond' = row [| beyond |]

                Advantage.generalised 0.99 0.95 (row rewards) (row values) beyond'
                |> Tensor.toFloats
                |> Expect.close 1e-10 1e-10 (recursion (0.99 * 0.95) 0.0 deltas)

                Advantage.returns 0.99 (row rewards) beyond'
                |> Tensor.toFloats
                |> Expect.close 1e-10 1e-10 (recursion 0.99 beyond rewards)
            )
        )

[<Fact>]
let ``advantages of a thousand instances are finite in float32`` () =
    Tensor.scoped (fun () ->
        let ones = Tensor.full DType.Float32 Device.Cpu 1.0 [| 2000L |]
        let sums = Advantage.discounted (0.99 * 0.95) ones |> Tensor.toFloats
        Expect.near 1e-4 0.0 (1.0 / (1.0 - 0.99 * 0.95)) sums[0]
        Assert.All(sums, fun s -> Assert.True(System.Double.IsFinite s))
    )

[<Fact>]
let ``constant advantages have no z-score and keep their sign under the running scale`` () =
    Tensor.scoped (fun () ->
        let constant = row [| -2.0; -2.0; -2.0 |]
        Assert.All(Tensor.toFloats (Advantage.zScored constant), fun a -> Expect.near 0.0 1e-6 0.0 a)
        let running, updates = Expect.number 0.0, Expect.number 0.0
        let first = Advantage.scaled running updates constant |> Tensor.toFloats
        Assert.All(first, fun a -> Expect.near 1e-6 0.0 -1.0 a)

        let second =
            Advantage.scaled running (Expect.number 1.0) (row [| 4.0; 4.0; 4.0 |]) |> Tensor.toFloats
        // The mean square of both: (4 * 0.99 + 16) / 1.99.
        Assert.All(second, fun a -> Expect.near 1e-6 0.0 (4.0 / sqrt (19.96 / 1.99)) a)
    )

// ---- learning ------------------------------------------------------------------------------------------------

[<Fact>]
let ``the surrogate is minus the mean advantage at the ratio 1, with the policy gradient as its slope`` () =
    check
        seeds
        (fun seed ->
            Tensor.scoped (fun () ->
                let before, advantages = normals seed [ 5 ], normals (seed + 1) [ 5 ]
                let after = Autograd.leaf before
                let loss = Ppo.surrogate 0.2 before after advantages
                Expect.near 1e-12 1e-12 -(Tensor.toFloat (Tensor.mean advantages)) (Tensor.toFloat loss)
                let slope = Autograd.gradients loss [| after |] |> Array.head |> Tensor.toFloats
                Expect.close 1e-12 1e-12 (Tensor.toFloats advantages |> Array.map (fun a -> -a / 5.0)) slope
            )
        )

[<Fact>]
let ``a ratio beyond the clip that helps has no slope`` () =
    Tensor.scoped (fun () ->
        let before = row [| 0.0; 0.0; 0.0; 0.0 |]
        let after = Autograd.leaf (row [| log 1.3; log 0.7; log 1.3; log 0.7 |])
        let loss = Ppo.surrogate 0.2 before after (row [| 1.0; -1.0; -1.0; 1.0 |])
        let slope = Autograd.gradients loss [| after |] |> Array.head |> Tensor.toFloats
        Expect.close 1e-12 1e-12 [| 0.0; 0.0; 1.3 / 4.0; -0.7 / 4.0 |] slope
    )

[<Fact>]
let ``a gradient is shortened to the norm and never lengthened`` () =
    Tensor.scoped (fun () ->
        let clipped values = Pack.clipped 2.0 (row values) |> Tensor.toFloats
        Expect.close 1e-6 0.0 [| 1.2; 1.6 |] (clipped [| 3.0; 4.0 |])
        Expect.same [| 0.3; 0.4 |] (clipped [| 0.3; 0.4 |])
        Expect.same [| 0.0; 0.0 |] (clipped [| 0.0; 0.0 |])
    )

// ---- credit --------------------------------------------------------------------------------------------------

let private learner (seed: int) (pack: Pack) : Learner =
    let weights = Pack.start DType.Float64 Device.Cpu (Rng.ofSeed seed) pack

    {
        Weights = weights
        First = Tensor.scale 0.0 weights
        Second = Tensor.scale 0.0 weights
    }

let private burst (steps: int) : Adam * AdamStep[] =
    let adam = Adam.ofRate 1e-3
    adam, Adam.ahead adam DType.Float64 steps (Expect.number 20.0)

[<Fact>]
let ``rewards that the LSTM or the set network shares out sum to the batch's`` () =
    check
        (Gen.zip seeds (Gen.choose (1, 20)))
        (fun (seed, n) ->
            Tensor.scoped (fun () ->
                for kind in [ RlkdCorrector.Lstm; RlkdCorrector.Set ] do
                    let reward = Expect.number (0.1 * float (seed % 7) - 0.3)
                    let shares = Corrector.redistribute kind reward reward (normals seed [ n ])
                    Expect.near 0.0 1e-12 (Tensor.toFloat reward) (Tensor.toFloat (Tensor.sum shares))
            )
        )

[<Fact>]
let ``the corrector learns the same by hand as by the engine`` () =
    Tensor.scoped (fun () ->
        for batch in [ 1; 5; 64 ] do
            let pack = Option.get (Corrector.pack RlkdCorrector.Lstm 3)
            let adam, steps = burst 10
            let reward = Expect.number -0.4
            let x = Corrector.inputs RlkdCorrector.Lstm (normals 1 [ batch; 3 ]) (normals 2 [ batch ])
            let ours, theirs = learner 1 pack, learner 1 pack
            let struct (loss, predictions) = Corrector.trainByHand adam steps ours reward x

            let struct (loss', predictions') =
                Corrector.trainByEngine adam steps pack RlkdCorrector.Lstm theirs reward reward x

            Expect.near 1e-12 0.0 (Tensor.toFloat loss') (Tensor.toFloat loss)
            Expect.close 1e-9 1e-11 (Tensor.toFloats predictions') (Tensor.toFloats predictions)
            // Adam turns a rounding in a gradient near 0 into up to a part of the rate.
            Expect.close 0.0 1e-7 (Tensor.toFloats theirs.Weights) (Tensor.toFloats ours.Weights)
            Expect.close 1e-7 1e-12 (Tensor.toFloats theirs.First) (Tensor.toFloats ours.First)
    )

[<Fact>]
let ``each corrector comes to predict a batch's reward`` () =
    Tensor.scoped (fun () ->
        for kind in [ RlkdCorrector.Lstm; RlkdCorrector.Set; RlkdCorrector.Linear ] do
            let pack = Option.get (Corrector.pack kind 3)
            let learner = learner 2 pack
            let reward = Expect.number 0.5
            let returns = Tensor.expand [| 8L |] reward
            let x = Corrector.inputs kind (normals 3 [ 8; 3 ]) (normals 4 [ 8 ] |> Tensor.addNumber 5.0)
            let adam, steps = burst 400
            let struct (before, g) = Corrector.train kind adam steps pack learner reward returns x
            let after = Corrector.loss kind reward returns g
            Assert.True(Tensor.toFloat after < 0.1 * Tensor.toFloat before, $"{kind}: {before} {after}")
    )

[<Fact>]
let ``mask and estimator learn the same by hand as by the engine`` () =
    Tensor.scoped (fun () ->
        let pack = Updater.pack 3
        let adam, steps = burst 10

        for batch in [ 1; 7; 64 ] do
            for reward in [ Expect.number 0.4; normals 8 [ batch ] ] do
                let states = normals 1 [ batch; 3 ]

                let masks, estimators =
                    [ learner 1 pack; learner 1 pack ], [ learner 2 pack; learner 2 pack ]

                let struct (loss, error) =
                    Updater.trainByHand 5e-3 adam steps masks[0] estimators[0] reward states

                let struct (loss', error') =
                    Updater.trainByEngine
                        RlkdUpdater.Estimated
                        5e-3
                        adam
                        steps
                        pack
                        masks[1]
                        estimators[1]
                        reward
                        states

                Expect.near 1e-12 0.0 (Tensor.toFloat loss') (Tensor.toFloat loss)
                Expect.near 1e-12 0.0 (Tensor.toFloat error') (Tensor.toFloat error)

                for pair in [ masks; estimators ] do
                    // Adam turns a rounding in a gradient near 0 into up to a part of the rate.
                    Expect.close 0.0 1e-7 (Tensor.toFloats pair[1].Weights) (Tensor.toFloats pair[0].Weights)
                    Expect.close 1e-7 1e-12 (Tensor.toFloats pair[1].First) (Tensor.toFloats pair[0].First)
                    Expect.close 1e-7 1e-15 (Tensor.toFloats pair[1].Second) (Tensor.toFloats pair[0].Second)
    )

[<Fact>]
let ``the mask keeps what the estimator needs`` () =
    // States whose return is that of their sum: a mask that went to 0 would leave no way to tell them apart.
    Tensor.scoped (fun () ->
        let pack = Updater.pack 3
        let masker, estimator = learner 5 pack, learner 6 pack
        let states = Lessons.normal 7 [ 64; 3 ] |> Expect.ofDense |> Tensor.abs
        let returns = Tensor.sumOver 1 states
        let adam = Adam.ofRate 1e-2

        for update in 0..99 do
            let steps = Adam.ahead adam DType.Float64 10 (Expect.number (10.0 * float update))

            Updater.train RlkdUpdater.Estimated 5e-3 adam steps pack masker estimator returns states
            |> ignore

        let error states =
            let difference = Updater.estimate (Pack.views pack estimator.Weights) states - returns
            Tensor.mean (difference * difference) |> Tensor.toFloat

        let mask = Updater.mask (Pack.views pack masker.Weights) states
        let bound = 1.5 * max 0.01 (error states)
        Assert.True(error (mask * states) < bound, $"{error (mask * states)} beyond {bound}")
        Assert.InRange(Tensor.toFloat (Tensor.mean mask), 0.5, 1.0)
    )

[<Fact>]
let ``as released the mask goes to 0`` () =
    Tensor.scoped (fun () ->
        let pack = Updater.pack 3
        let masker, estimator = learner 5 pack, learner 6 pack
        let untouched = Tensor.toFloats estimator.Weights
        let states = Lessons.normal 7 [ 64; 3 ] |> Expect.ofDense |> Tensor.abs
        let adam = Adam.ofRate 1e-3

        for update in 0..59 do
            let steps = Adam.ahead adam DType.Float64 10 (Expect.number (10.0 * float update))

            Updater.train
                RlkdUpdater.Collapsing
                5e-3
                adam
                steps
                pack
                masker
                estimator
                (Expect.number 0.3)
                states
            |> ignore

        let mask = Updater.mask (Pack.views pack masker.Weights) states |> Tensor.mean |> Tensor.toFloat
        Assert.InRange(mask, 0.0, 0.02)
        Expect.same untouched (Tensor.toFloats estimator.Weights)
    )

// ---- exploration ---------------------------------------------------------------------------------------------------

[<Fact>]
let ``exactly a tenth of the images is mixed, at the dominant ones' places with both labels by weight`` () =
    Tensor.scoped (fun () ->
        let mixing = Option.get RlkdConfig.paper.Mixing
        let set = images 3 40 4 8
        let pixels = Tensor.ofBytes DType.UInt8 [| 40L; 3L; 8L; 8L |] (System.ReadOnlySpan set.Images)
        let labels = Lessons.ofLabels set.Labels
        let before = Tensor.toBytes pixels
        let struct (dominant, partner) = Exploration.select mixing (normals 2 [ 40 ])
        let blend = Exploration.blend mixing DType.Float64 dominant partner pixels labels
        let places, partners = Tensor.toInt64s dominant, Tensor.toInt64s partner
        Assert.Equal(4, places.Length)
        Assert.Equal<byte[]>(before, Tensor.toBytes pixels)
        Assert.Equal<int64[]>(Tensor.shape pixels, Tensor.shape blend.Images)

        let rowsOf (x: Tensor) = Tensor.toBytes x |> Array.chunkBySize (3 * 8 * 8)
        let changed = Array.map2 (<>) (rowsOf pixels) (rowsOf blend.Images)

        let changedAt = [
            for i in 0..39 do
                if changed[i] then int64 i
        ]
        // The first pair has the weight 1: its image stays.
        Assert.Equal<int64 list>(List.sort (List.tail (List.ofArray places)), changedAt)

        let weight, other = Tensor.toFloats blend.Weight, Tensor.toInt64s blend.Other
        let clean = Tensor.toBytes blend.Clean

        for i in 0..39 do
            match Array.tryFindIndex ((=) (int64 i)) places with
            | None -> Assert.Equal((1.0, 1uy), (weight[i], clean[i]))
            | Some rank ->
                Expect.near 1e-12 0.0 (1.0 - 0.3 * float rank / 4.0) weight[i]
                Assert.Equal((int64 set.Labels[int partners[rank]], 0uy), (other[i], clean[i]))
    )

[<Fact>]
let ``the mixed cross entropy weighs both labels, and is the usual one for unmixed images`` () =
    Tensor.scoped (fun () ->
        let logits, labels = normals 1 [ 3; 4 ], Lessons.ofLabels [| 0; 1; 2 |]

        let blend = {
            Images = Tensor.zeros DType.UInt8 Device.Cpu [| 5L; 3L; 2L; 2L |]
            Other = Lessons.ofLabels [| 3; 3; 3; 3; 3 |]
            Weight = row [| 0.7; 1.0; 1.0; 1.0; 0.85 |]
            Clean = Tensor.zeros DType.Float64 Device.Cpu [| 5L |] |> Tensor.eqNumber 1.0
        }

        let index = Tensor.ofInt64s [ 3 ] [| 4L; 0L; 2L |]
        let own = Tensor.crossEntropyEach labels logits |> Tensor.toFloats
        let other = Tensor.crossEntropyEach (Lessons.ofLabels [| 3; 3; 3 |]) logits |> Tensor.toFloats
        let weights = [| 0.85; 0.7; 1.0 |]

        let expected =
            Array.init 3 (fun i -> weights[i] * own[i] + (1.0 - weights[i]) * other[i]) |> Array.average

        Expect.near 1e-12 0.0 expected (Tensor.toFloat (Exploration.crossEntropy blend index labels logits))
    )

[<Fact>]
let ``entropies of mixed images are not recorded`` () =
    Tensor.scoped (fun () ->
        let table = row [| -1.0; -1.0; -1.0 |]
        let index = Tensor.ofInt64s [ 2 ] [| 2L; 0L |]

        let blend = {
            Images = Tensor.zeros DType.UInt8 Device.Cpu [| 3L; 3L; 2L; 2L |]
            Other = Lessons.ofLabels [| 0; 0; 0 |]
            Weight = row [| 1.0; 1.0; 0.8 |]
            Clean = row [| 1.0; 1.0; 0.0 |] |> Tensor.eqNumber 1.0
        }

        Exploration.record RlkdHistory.Latest 3 (Some blend) index (row [| 5.0; 6.0 |]) table
        Expect.same [| 6.0; -1.0; -1.0 |] (Tensor.toFloats table)
        Exploration.record RlkdHistory.Latest 4 None index (row [| 5.0; 7.0 |]) table
        Expect.same [| 7.0; -1.0; 5.0 |] (Tensor.toFloats table)
    )

// ---- epochs --------------------------------------------------------------------------------------------------------

[<Fact>]
let ``the paper's agent chooses from epoch 20 on, learns in every 20th and mixes until 150`` () =
    let epochs f = [ 1..240 ] |> List.filter f
    Assert.Equal<int list>([ 20..240 ], epochs (RlkdConfig.chooses RlkdConfig.paper))
    Assert.Equal<int list>([ 20..20..240 ], epochs (RlkdConfig.learns RlkdConfig.paper))
    let mixed config = epochs (RlkdConfig.mixes config >> Option.isSome)
    Assert.Equal<int list>([ 40..20..140 ], mixed RlkdConfig.paper)
    Assert.Equal<int list>([ 40..20..240 ], mixed RlkdConfig.official)
    Assert.Empty(mixed { RlkdConfig.paper with Mixing = None })
    // The first epoch has no entropies to rank by.
    let always = { RlkdConfig.paper with WarmUp = 0; Every = 1 }
    Assert.Equal<int list>([ 2..150 ], mixed always)
