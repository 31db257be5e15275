/// The pieces of RLKD against reference numbers (tests/golden/rlkd.json), whose inputs are formulas.
module Ctkd.Fs.Tests.RlkdGoldenTests

open System
open System.Text.Json
open Ctkd.Fs
open Ctkd.Fs.Tests.Golden
open Xunit

/// The file, unless a folder from outside holds other golden numbers.
let private file: JsonElement option =
    if IO.File.Exists(IO.Path.Combine(folder, "rlkd.json")) then
        Some(load "rlkd.json")
    else
        None

/// All numbers of a field, row by row.
let rec private numbersIn (element: JsonElement) : float[] =
    match element.ValueKind with
    | JsonValueKind.Array -> items element |> List.map numbersIn |> Array.concat
    | JsonValueKind.Number -> [| element.GetDouble() |]
    | JsonValueKind.True -> [| 1.0 |]
    | kind -> invalidOp $"no numbers but a {kind}"

/// The numbers under a path of names.
let private at (path: string) (root: JsonElement) : float[] =
    path.Split '.' |> Array.fold (fun element name -> field name element) root |> numbersIn

/// Runs a test with the file's numbers.
let private reading (body: (string -> float[]) -> unit) : unit =
    match file with
    | Some root -> Tensor.scoped (fun () -> body (fun path -> at path root))
    | None -> Assert.True(elsewhere, "tests/golden/rlkd.json is missing")

/// float64 numbers that were rounded to 1e-10.
let private exactly (expected: float[]) (actual: Tensor) : unit =
    Expect.close 1e-8 1e-9 expected (Tensor.toFloats actual)

let private tabulate (rows: int) (columns: int) (f: float -> float -> float) : Tensor =
    Array.init (rows * columns) (fun n -> f (float (n / columns)) (float (n % columns)))
    |> Expect.tensor [ rows; columns ]

// ---- inputs ---------------------------------------------------------------------------------------

let private student () = tabulate 4 5 (fun i j -> 3.0 * sin (0.7 * i + 1.3 * j + 0.2))
let private teacher () = tabulate 4 5 (fun i j -> 4.0 * cos (0.5 * i - 0.9 * j + 0.1))
let private labels () = Tensor.ofInt64s [ 4 ] [| 0L; 3L; 1L; 4L |]
let private temperatures () = Expect.tensor [ 4 ] [| 1.0; 2.5; 4.0; 9.0 |]
let private uniform () = Expect.number 4.0

/// Weights by formula, in the order of a pack whose layers are weight, bias; there `bias` comes first.
let private formula (pack: Pack) : Tensor =
    pack.Declares
    |> List.mapi (fun i d ->
        let isBias = d.Shape.Length = 1
        let k = float (if isBias then i - 1 else i + 1)

        match d.Shape with
        | _ when d.Name = "deviation" -> Expect.tensor d.Shape (Array.zeroCreate d.Shape.Head)
        | [ rows; columns ] ->
            tabulate rows columns (fun a b -> sin (0.37 * a + 0.61 * b + 0.11 * k) / sqrt (float columns))
        | [ rows ] -> tabulate 1 rows (fun _ a -> 0.1 * cos (0.53 * a + 0.11 * k))
        | _ -> invalidOp "a matrix or a vector"
        |> Tensor.reshape [| -1L |]
    )
    |> Tensor.cat 0

/// As `formula`, where the last layer counts first.
let private formulaFromLast (pack: Pack) : Tensor =
    match pack.Declares with
    | [ w1; b1; w2; b2 ] ->
        let parts = formula { pack with Declares = [ w2; b2; w1; b1 ] }
        let last = Pack.count { pack with Shapes = [ w2.Shape; b2.Shape ] }
        Tensor.cat 0 [ Tensor.slice 0 last (Pack.count pack) parts; Tensor.slice 0 0 last parts ]
    | _ -> invalidOp "two layers"

/// States of a trajectory.
let private trajectory (n: int) : Tensor =
    tabulate
        n
        3
        (fun i k ->
            match int k with
            | 0 -> 0.5 + 0.4 * sin (0.9 * i)
            | 1 -> 0.6 + 0.3 * cos (0.5 * i)
            | _ -> 0.3 + 0.2 * sin (1.7 * i + 1.0)
        )

let private vector (n: int) (f: float -> float) : Tensor =
    Expect.tensor [ n ] (Array.init n (fun i -> f (float i)))

let private shared = RlkdSpread.Shared 10

// ---- losses (F1 to F6, F25, F26) --------------------------------------------------------------------

[<Fact>]
let ``the distillation loss of each instance's temperature, and its gradient`` () =
    reading (fun expected ->
        let leaf = Autograd.leaf (student ())
        let each = Loss.kd (temperatures ()) (teacher ()) leaf
        exactly (expected "kl_loss.per_instance") each
        exactly (expected "kl_loss.value") (Tensor.mean each)
        exactly (expected "kl_loss.grad") (Autograd.gradients (Tensor.mean each) [| leaf |] |> Array.head)

        exactly
            (expected "kl_loss.uniform_T4")
            (Loss.kd (uniform ()) (teacher ()) (student ()) |> Tensor.mean)
    )

[<Fact>]
let ``the published broadcast of T squared over the batch is another loss`` () =
    reading (fun expected ->
        let t = temperatures ()
        let divergence = Loss.kl (Loss.soften t (teacher ())) (Loss.soften t (student ()))
        exactly (expected "itkd_loss_broadcast") (Tensor.mean divergence * Tensor.mean (t * t))
        let ours = Loss.kd t (teacher ()) (student ()) |> Tensor.mean |> Tensor.toFloat
        Assert.True(abs (ours - (expected "itkd_loss_broadcast")[0]) > 1.0)
    )

[<Fact>]
let ``DKD of a uniform temperature, of each instance's, and as released`` () =
    reading (fun expected ->
        let dkd a b softened = Dkd.loss a b (labels ()) softened |> Tensor.mean
        let each = Temperature.shared (teacher ()) (student ()) (temperatures ())
        let broadcast = { each with Weight = Tensor.mean each.Weight }
        let same = Temperature.shared (teacher ()) (student ()) (uniform ())

        for a, b in [ 1.0, 2.0; 1.0, 8.0; 1.0, 0.0; 0.0, 1.0 ] do
            let key = $"a%.0f{a}_b%.0f{b}"
            exactly (expected $"dkd_uniformT4_{key}") (dkd a b same)
            exactly (expected $"dkd_per_instance_mean_{key}") (dkd a b each)
            exactly (expected $"dkd_official_{key}") (dkd a b broadcast)

        let warm = Schedule.warmUp 1.0 20

        for epoch in [ 1; 10; 20; 40 ] do
            exactly
                (expected $"dkd_warm.{epoch}")
                (Tensor.scale (Schedule.at epoch warm) (dkd 1.0 2.0 broadcast))
    )

[<Fact>]
let ``SP, PKT, VID and CRD on the same features`` () =
    reading (fun expected ->
        let s = tabulate 4 6 (fun i k -> sin (0.31 * (6.0 * i + k) + 0.2))
        let t = tabulate 4 8 (fun i k -> cos (0.17 * (8.0 * i + k)))
        exactly (expected "similarity") (Sp.loss t s)
        exactly (expected "pkt") (Pkt.loss t s)

        let map shape f = vector (Array.fold (*) 1 shape) f |> Tensor.reshape (Array.map int64 shape)

        let conv k inputs =
            tabulate 3 inputs (fun a b -> sin (0.37 * a + 0.61 * b + 0.11 * k) / sqrt (float inputs))
            |> Tensor.reshape [| 3L; int64 inputs; 1L; 1L |]

        let convolve weight = Tensor.conv2d 1 0 1 weight None

        let predicted =
            map [| 2; 2; 4; 4 |] (fun n -> sin (0.13 * n))
            |> Tensor.avgPool2d 2 2 0
            |> convolve (conv 1.0 2)
            |> Tensor.relu
            |> convolve (conv 2.0 3)
            |> Tensor.relu
            |> convolve (conv 3.0 3)

        let start = log (exp (5.0 - 1e-5) - 1.0)
        let logScale = Expect.tensor [ 3 ] [| start; start; start |]

        exactly
            (expected "vid.value")
            (Vid.loss logScale (map [| 2; 3; 2; 2 |] (fun n -> cos (0.29 * n))) predicted)

        // Three instances with four scores each, given as exp(score) / Z: an embedding picks its column.
        let x = expected "crd_contrast_loss.x"
        let rows = Array.init 150 (fun n -> if n < 36 && n % 3 = n / 12 then log x[n / 3] else 0.0)
        let contrast = Tensor.ofInt64s [ 3; 4 ] (Array.init 12 int64)
        let options = { Crd.published with Temperature = 1.0 }
        let identity = tabulate 3 3 (fun i j -> if i = j then 1.0 else 0.0)
        let z = Expect.tensor [ 1 ] [| 1.0 |] |> Tensor.sum

        exactly
            (expected "crd_contrast_loss.value")
            (Crd.side options z (Expect.tensor [ 50; 3 ] rows) contrast identity)
    )

[<Fact>]
let ``the released baselines: a temperature by hand, and the decay of a gradient reversal`` () =
    reading (fun expected ->
        let right =
            teacher ()
            |> Tensor.softmax -1
            |> Tensor.gather 1 (Tensor.unsqueeze 1 (labels ()))
            |> Tensor.squeeze 1

        let wave = right |> Tensor.neg |> Tensor.addNumber 1.0 |> Tensor.scale Math.PI |> Tensor.cos
        let t = wave |> Tensor.addNumber 1.0 |> Tensor.scale (0.5 * 9.0) |> Tensor.addNumber 1.0
        exactly (expected "manual_kd.T") t
        let divergence = Loss.kl (Loss.soften t (teacher ())) (Loss.soften t (student ())) |> Tensor.mean
        exactly (expected "manual_kd.loss") (divergence * Tensor.mean t * Tensor.mean t)

        for kind, schedule in
            [ "cosine", Schedule.cosine 0.0 -1.0 100; "linear", Schedule.linear 0.0 -1.0 100 ] do
            for epoch in [ 0; 25; 50; 99; 100; 200 ] do
                Expect.close 1e-8 1e-9 (expected $"mlp_decay.{kind}.{epoch}") [|
                    Schedule.at epoch schedule
                |]
    )

// ---- state (F7 to F9) ---------------------------------------------------------------------------------

[<Fact>]
let ``states, uncertainty and entropy`` () =
    reading (fun expected ->
        let seen form = Confidence.seen form (teacher ()) (student ())
        exactly (expected "recommended.state") (seen RlkdState.Uncertainty).State
        exactly (expected "recommended.uncertainty") (seen RlkdState.Uncertainty).Uncertainty
        exactly (expected "observations_official") (seen RlkdState.SecondSmallest).State
        exactly (expected "student_entropy") (seen RlkdState.Uncertainty).Entropy
        let two = (seen RlkdState.Confidences).State
        exactly (Tensor.toFloats (Tensor.slice 1 0 2 (seen RlkdState.Uncertainty).State)) two
    )

// ---- action (F10 to F13) --------------------------------------------------------------------------------

let private states () =
    Expect.tensor [ 4; 3 ] [| 0.9; 0.95; 0.8; 0.5; 0.7; 0.1; 0.2; 0.99; 0.05; 0.0; 0.0; 0.0 |]

[<Fact>]
let ``draws become temperatures`` () =
    reading (fun expected ->
        let z = expected "squash.z"
        exactly (expected "squash.T") (Actor.squash 0.0 (Expect.tensor [ z.Length ] z))
    )

[<Fact>]
let ``log-likelihoods at the draw and, as released, at the temperature`` () =
    reading (fun expected ->
        let policy mean = { Mean = Expect.tensor [ 3 ] mean; LogDeviation = Expect.number -0.5 }
        let none = Expect.tensor [ 3 ] [| nan; nan; nan |]
        let x = Expect.tensor [ 3 ] (expected "gaussian_logp.x")

        let released =
            Actor.logLikelihood RlkdLikelihood.Temperature none x (policy (expected "gaussian_logp.mu"))

        exactly (expected "gaussian_logp.logp") released
        let z = Expect.tensor [ 3 ] (expected "recommended.logp_pre_squash.z")
        let mean = expected "recommended.logp_pre_squash.mu"

        exactly
            (expected "recommended.logp_pre_squash.logp")
            (Actor.logLikelihood RlkdLikelihood.Draw z none (policy mean))

        exactly (expected "recommended.logp_pre_squash.T") (Actor.squash 0.1 z)
    )

[<Fact>]
let ``actor and critic`` () =
    reading (fun expected ->
        let actor, critic = Actor.pack shared 3, Critic.pack 3
        let policy = Actor.forward shared (Pack.views actor (formula actor)) (states ())
        exactly (expected "actor_forward.mu") policy.Mean
        exactly (expected "actor_forward.std") (Tensor.exp policy.LogDeviation)

        exactly
            (expected "critic_forward.v")
            (Critic.forward (Pack.views critic (formula critic)) (states ()))
    )

// ---- advantages and learning (F14 to F16) ----------------------------------------------------------------

[<Fact>]
let ``discounted sums, generalised advantages, returns and their scaling`` () =
    reading (fun expected ->
        let x = Expect.tensor [ 4 ] (expected "discount.x")
        exactly (expected "discount.out") (Advantage.discounted 0.9 x)
        let values = vector 8 (fun i -> 0.1 * cos (0.4 * i))
        let rewards = Corrector.sparse 8 (Expect.number 0.25)
        let beyond = Expect.tensor [ 1 ] [| 0.07 |]
        let advantages = Advantage.generalised 0.99 0.95 rewards values beyond
        // The reference kept these in float32.
        let single tolerance key actual =
            Expect.close tolerance tolerance (expected key) (Tensor.toFloats actual)

        single 1e-7 "gae.adv" advantages
        single 1e-7 "gae.ret" (Advantage.returns 0.99 rewards beyond)
        single 1e-6 "gae.adv_norm" (Advantage.zScored advantages)
    )

/// The batch of 64 transitions and the two networks of F15 and F16.
let private transitions () =
    let learner pack : Learner =
        let weights = formula pack
        let zeros () = Tensor.scale 0.0 weights
        { Weights = weights; First = zeros (); Second = zeros () }

    let actor, critic = Actor.pack shared 3, Critic.pack 3
    let actorLearner, criticLearner = learner actor, learner critic
    let states, t = trajectory 64, vector 64 (fun i -> 5.0 + 4.0 * sin (0.77 * i))
    let policy = Actor.forward shared (Pack.views actor actorLearner.Weights) states
    let old = Actor.logLikelihood RlkdLikelihood.Temperature t t policy + vector 64 (fun i -> 0.05 * sin i)
    let values = Critic.forward (Pack.views critic criticLearner.Weights) states
    let rewards, beyond = Corrector.sparse 64 (Expect.number 0.3), Expect.tensor [ 1 ] [| 0.0 |]
    let advantages = Advantage.generalised 0.99 0.95 rewards values beyond

    advantages,
    {
        States = states
        Draws = t
        Temperatures = t
        Before = old
        Advantages = Advantage.zScored advantages
        Returns = Advantage.returns 0.99 rewards beyond
    },
    (actor, actorLearner),
    (critic, criticLearner)

[<Fact>]
let ``the losses of PPO, and the networks after its passes`` () =
    reading (fun expected ->
        let advantages, batch, (actor, ofActor), (critic, ofCritic) = transitions ()
        let ends x = let values = Tensor.toFloats x in [| Array.head values; Array.last values |]
        Expect.close 1e-5 0.0 (expected "ppo_one_step.ret_first_last") (ends batch.Returns)
        Expect.close 1e-5 1e-6 (expected "ppo_one_step.adv_raw_first_last") (ends advantages)

        Expect.close
            1e-5
            0.0
            (expected "ppo_one_step.logp_old_first3")
            (Array.truncate 3 (Tensor.toFloats batch.Before))

        let ppo, taken = RlkdConfig.official.Ppo, Expect.number 0.0
        let criticLoss = Ppo.criticPasses ppo taken critic ofCritic batch |> Tensor.toFloats
        Expect.close 1e-5 0.0 (expected "ppo_one_step.c_loss") criticLoss
        let actorLoss = Ppo.actorPasses ppo shared RlkdLikelihood.Temperature taken actor ofActor batch
        Expect.close 1e-5 0.0 (expected "ppo_one_step.a_loss") (Tensor.toFloats actorLoss)
        let policy = Actor.forward shared (Pack.views actor ofActor.Weights) (states ())
        Expect.close 2e-3 0.0 (expected "ppo_update_64.mu_after") (Tensor.toFloats policy.Mean)
        let values = Critic.forward (Pack.views critic ofCritic.Weights) (states ())
        Expect.close 2e-3 0.0 (expected "ppo_update_64.v_after") (Tensor.toFloats values)
    )

// ---- reward (F17, F18, F27) --------------------------------------------------------------------------------

[<Fact>]
let ``the reward's factors by epoch`` () =
    reading (fun expected ->
        let check key kind epochs =
            for epoch in epochs do
                Expect.close 1e-6 0.0 (expected $"{key}.{epoch}") [| Reward.factor kind epoch |]

        check "reward_mult_official_cifar" RlkdFactor.CosineCifar [ 20..20..240 ]
        check "reward_mult_official_imagenet" RlkdFactor.CosineImageNet [ 20..20..120 ]
        check "recommended.ramp_E80" (RlkdFactor.Ramp 80) [ 20; 40; 60; 80; 100; 240 ]
    )

[<Fact>]
let ``the accuracy of a batch, over instances and over classes`` () =
    reading (fun expected ->
        let of' kind = Reward.accuracy kind (labels ()) (student ())
        exactly (expected "recommended.micro_acc") (of' RlkdAccuracy.Micro)
        exactly (expected "macro_acc.value") (of' RlkdAccuracy.Macro)
        // Predictions 0 0 1 2 for 0 0 0 1 of four classes.
        let predictions = [| 0; 0; 1; 2 |]
        let logits = tabulate 4 4 (fun i j -> if predictions[int i] = int j then 1.0 else 0.0)
        let labels = Tensor.ofInt64s [ 4 ] [| 0L; 0L; 0L; 1L |]
        exactly [| 2.0 / 9.0 |] (Reward.accuracy RlkdAccuracy.Macro labels logits)
        exactly [| 0.5 |] (Reward.accuracy RlkdAccuracy.Micro labels logits)
    )

// ---- credit (F19 to F21) --------------------------------------------------------------------------------------

[<Fact>]
let ``the corrector's predictions, losses and shares, as released and in RUDDER's form`` () =
    reading (fun expected ->
        let kind = RlkdCorrector.Linear
        let pack = Option.get (Corrector.pack kind 3)
        let x = Corrector.inputs kind (trajectory 6) (vector 6 (fun i -> 1.0 + 1.5 * i))
        let g = Corrector.predict kind (Pack.views pack (formulaFromLast pack)) x
        let returns = vector 6 (fun i -> 0.2 * cos (0.3 * i))
        exactly (expected "reward_redistribution.pred") g
        exactly (expected "reward_redistribution.loss_official") (Corrector.loss kind returns returns g)

        exactly
            (expected "reward_redistribution.corrected_official")
            (Corrector.redistribute kind returns returns g)

        let total = Tensor.select 0 5 returns
        let rudder = RlkdCorrector.Lstm
        exactly (expected "recommended.rudder_loss_mse.total") (Corrector.loss rudder total returns g)
        let shares = Corrector.redistribute rudder total returns g
        exactly (expected "recommended.rudder_redistribution.corrected") shares
        exactly (expected "recommended.rudder_redistribution.sum") (Tensor.sum shares)
    )

[<Fact>]
let ``masks of states`` () =
    reading (fun expected ->
        let pack = Updater.pack 3
        let states = trajectory 6
        let mask = Updater.mask (Pack.views pack (formulaFromLast pack)) states
        exactly (expected "state_detector.masks") mask
        exactly (expected "state_detector.masked_obs") (mask * states)
        exactly (expected "state_detector.loss1") (Tensor.sum mask)
    )

// ---- exploration (F22 to F24) ------------------------------------------------------------------------------------

let private mixing (config: RlkdConfig) : RlkdMixing = Option.get config.Mixing

let private chosen (struct (dominant, partner): struct (Tensor * Tensor)) =
    Array.map float (Tensor.toInt64s dominant), Array.map float (Tensor.toInt64s partner)

[<Fact>]
let ``images by rank of their entropies`` () =
    reading (fun expected ->
        let entropies epoch = vector 20 (fun i -> 2.0 + sin (1.1 * i + 0.3 * float epoch) + 0.01 * i)
        let index = Tensor.arange Device.Cpu 20

        let table history =
            let table = Expect.tensor [ 20 ] (Array.create 20 -1.0)

            for epoch in 0..3 do
                Exploration.record history (epoch + 1) None index (entropies epoch) table

            table

        let mean = table RlkdHistory.Mean
        let struct (_, order) = Tensor.topK 20 0 mean

        Assert.Equal<float[]>(
            expected "recommended.ranking.order_desc",
            Tensor.toInt64s order |> Array.map float
        )

        let official = Exploration.select (mixing RlkdConfig.official) mean |> chosen
        Assert.Equal<float[]>(expected "ranking.dominant_10_20", fst official)
        Assert.Equal<float[]>(expected "ranking.partner_80_90", snd official)
        let paper = Exploration.select (mixing RlkdConfig.paper) mean |> chosen
        Assert.Equal<float[]>(expected "recommended.ranking.dominant_10_20", fst paper)
        Assert.Equal<float[]>(expected "recommended.ranking.partner_40_50", snd paper)
        let latest = Exploration.select (mixing RlkdConfig.paper) (table RlkdHistory.Latest) |> chosen
        Assert.Equal<float[]>([| 6.0; 1.0 |], fst latest)
        Assert.Equal<float[]>([| 11.0; 19.0 |], snd latest)
    )

[<Fact>]
let ``images are mixed in the epochs of learning but the first`` () =
    reading (fun expected ->
        let epochs = [ 1..60 ] |> List.filter (RlkdConfig.mixes RlkdConfig.official >> Option.isSome)
        // The reference counts from 0 and looks at an epoch's end.
        let ends = epochs |> List.map (fun e -> float (e - 2)) |> Array.ofList
        Assert.Equal<float[]>(expected "mix_epochs_zero_based_end", ends)
    )

[<Fact>]
let ``weights by rank, mixed pixels and their bytes`` () =
    reading (fun expected ->
        let weights = Exploration.weights (mixing RlkdConfig.paper) 5
        Expect.close 1e-12 0.0 (expected "mixup.lam") weights
        let pixels key = Expect.tensor [ 5; 1 ] (expected key)

        let mixed =
            Exploration.mixed (Expect.tensor [ 5 ] weights) (pixels "mixup.rem") (pixels "mixup.lost")

        exactly (expected "recommended.mixup_float") mixed
        Assert.Equal<float[]>(expected "mixup.out", Exploration.bytes true mixed |> Tensor.toFloats)

        Assert.Equal<float[]>(
            [| 5.0; 28.0; 48.0; 64.0; 76.0 |],
            Exploration.bytes false mixed |> Tensor.toFloats
        )
    )
