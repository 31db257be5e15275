namespace Ctkd.Fs

open System
open Ctkd.Fs.RecipeTables

/// A published experiment as data: what to run, and the number to compare with.
type Recipe = {
    /// source/teacher-student/method/policy.
    Name: string
    Source: string
    Method: string
    Policy: string
    /// The published accuracies of the student in percent, where the source has them.
    Top1: float option
    Top5: float option
    /// The published accuracy of the teacher, and of the student without one.
    TeacherTop1: float option
    AloneTop1: float option
    /// Everything but the teacher's weights and the folder of the data.
    Settings: Settings
}

/// Where recipes and their numbers come from.
type RecipeSource = {
    /// The first part of its recipes' names.
    Name: string
    /// What its tables are called.
    Title: string
    /// What its numbers are: of which epoch and how many runs, where that is known.
    Numbers: string
}

/// The recipes of CTKD, mdistiller (DKD), DTKD, RLKD and LS (logit standardisation), with the values of each one's published code. Where
/// these differ from each other, in DKD's beta and warm-up, the recipe has those of its source. Only the
/// rates and ImageNet's batch of RLKD are CTKD's, whose settings its paper claims, and not its code's.
[<RequireQualifiedAccess>]
module Recipes =

    // ---- settings from parts ----

    /// A teacher and a student.
    let private pair (name: string) : string * string =
        match name.Split '-' with
        | [| teacher; student |] -> teacher, student
        | _ -> invalidArg (nameof name) $"a pair is TEACHER-STUDENT, got {name}."

    /// MobileNets and ShuffleNets diverge at the rate of the others.
    let private rate (student: string) : float =
        if List.contains student [ "MobileNetV2"; "ShuffleV1"; "ShuffleV2" ] then 0.01 else 0.05

    let private ofPair (name: string) : Settings =
        let teacher, student = pair name

        {
            Settings.defaults with
                Student = student
                Teacher = teacher
                Policy = PolicyName.Fixed
                Momentum = 0.9
                Nesterov = false
                Decay = 0.1
                Batch = 64
        }

    /// 240 epochs of batches of 64, the rate divided by 10 after 150, 180 and 210.
    let private cifar (name: string) : Settings =
        let pair = ofPair name

        {
            pair with
                Data = "cifar100"
                Epochs = 240
                Milestones = [ 150; 180; 210 ]
                LearningRate = rate pair.Student
                WeightDecay = 5e-4
        }

    /// The rate divided by 10 after epochs 30, 60 and 90; CTKD's curriculum takes 5 epochs.
    let private imageNetRun (epochs: int) (batch: int) (rate: float) (name: string) : Settings = {
        ofPair name with
            Data = "imagenet"
            Epochs = epochs
            Batch = batch
            Milestones = [ 30; 60; 90 ]
            LearningRate = rate
            WeightDecay = 1e-4
            CurriculumEpochs = 5
    }

    let private weighing (ce: float) (methods: (string * float) list) (s: Settings) : Settings = {
        s with
            CrossEntropy = ce
            Methods = Map methods
            WarmUp = 0
    }

    let private withDkd (weight: float) (beta: float) (warmUp: int) (s: Settings) : Settings = {
        weighing 1.0 [ "dkd", weight ] s with
            DkdAlpha = 1.0
            DkdBeta = beta
            WarmUp = warmUp
    }

    /// gamma CE + alpha KD + beta method, beta as in all sources.
    let private template (ce: float) (kd: float) (method: string) : Settings -> Settings =
        let beta = Settings.withMethods [ method ] Settings.defaults |> _.Methods |> Map.find method
        weighing ce (Map.toList (Map [ method, beta; "kd", kd ]))

    /// The settings under the policy of a name: "-standardised" means on standardised logits, "rlkd-no-" an ablation of the
    /// agent.
    let private under (policy: string) (s: Settings) : Settings =
        let plain = policy.Replace("-standardised", "")
        let without agent = { s with Policy = PolicyName.Rlkd; Rlkd = agent }

        match policy with
        | "rlkd-no-uncertainty" -> without { s.Rlkd with State = Some RlkdState.Confidences }
        | "rlkd-no-calibration" -> without { s.Rlkd with Calibration = Some RlkdCalibration.None }
        | "rlkd-no-exploration" -> without { s.Rlkd with Mix = false }
        | _ -> {
            s with
                Policy = Names.find "policy" plain |> Error.orRaise
                Standardise = plain <> policy
          }

    let private published (value: float) : float option = Some value |> Option.filter Double.IsFinite

    let private recipe source method policy (top1: float, top5: float) (settings: Settings) : Recipe =
        let short (model: string) = model.Replace("imagenet/", "")
        let s = under policy settings
        let key = $"{s.Teacher}-{s.Student}"

        let known =
            if key = imageNetPair then
                [ 73.96; 70.26 ]
            else
                pairs |> List.tryFind (fst >> (=) key) |> Option.map snd |> Option.defaultValue []

        {
            Name = $"{source}/{short s.Teacher}-{short s.Student}/{method}/{policy}"
            Source = source
            Method = method
            Policy = policy
            Top1 = published top1
            Top5 = published top5
            TeacherTop1 = List.tryItem 0 known
            AloneTop1 = List.tryItem 1 known
            Settings = s
        }

    // ---- the recipes of each source ----

    let private templateMethods = [ "kd"; "pkt"; "sp"; "vid"; "crd"; "srrl"; "dkd" ]

    /// A number of `pairs` for KD, of `combined` for the other methods.
    let private cifarNumber (method: string) (pair: string) (ofKd: int option) ofOthers : float * float =
        let find list = list |> List.tryFind (fst >> (=) pair) |> Option.map snd

        let found =
            if method = "kd" then
                Option.map2 List.item ofKd (find pairs)
            else
                List.tryFind (fst >> (=) method) combined
                |> Option.bind (fun (_, numbers) -> List.zip combinedPairs numbers |> find)
                |> Option.bind ofOthers

        Option.defaultValue nan found, nan

    let private imageNetNumber (method: string) (column: int option) : float * float =
        List.tryFind (fst >> (=) method) imageNet
        |> Option.map snd
        |> Option.map2 List.item column
        |> Option.defaultValue (nan, nan)

    /// A policy with the columns of its numbers: in `pairs`, in `combined`, in `imageNet`.
    type private Columns = string * int option * (float * float * float -> float option) * int option

    /// Every pair x method x policy of CTKD and of RLKD, which took over CTKD's template.
    let private ofTemplate source (policies: Columns list) onCifar onImageNet : Recipe list = [
        for policy, ofKd, ofOthers, ofImageNet in policies do
            for method in templateMethods do
                for pair in List.map fst pairs ->
                    cifar pair
                    |> onCifar method policy
                    |> recipe source method policy (cifarNumber method pair ofKd ofOthers)

            for method in templateMethods @ [ "rkd" ] ->
                onImageNet method policy |> recipe source method policy (imageNetNumber method ofImageNet)
    ]

    let private ctkd: Recipe list =
        let policies: Columns list = [
            "fixed", Some 2, (fun (alone, _, _) -> Some alone), Some 0
            "ctkd-global", Some 3, (fun (_, ctkd, _) -> Some ctkd), Some 1
            "ctkd-instance", Some 4, (fun _ -> None), None
        ]

        let onCifar method _ = if method = "dkd" then withDkd 1.0 2.0 0 else template 0.1 0.9 method

        let onImageNet method _ =
            imageNetRun 120 256 0.1 imageNetPair
            |> if method = "dkd" then withDkd 1.0 1.0 0 else template 1.0 1.0 method

        ofTemplate "ctkd" policies onCifar onImageNet

    /// Seed 42; DKD warms up. The agent has the paper's mode. The released code has the rate 0.05 for every
    /// student, no configuration of wrn_40_2-ShuffleV1, vgg13-MobileNetV2 and ResNet50-MobileNetV2, and on ImageNet
    /// batches of 64 on each of 8 devices, of DKD 32, or of 64 on one, all at the rate 0.1.
    let private rlkd: Recipe list =
        let policies: Columns list = [
            "fixed", None, (fun _ -> None), None
            "ctkd-global", Some 5, (fun _ -> None), Some 2
            "rlkd", Some 6, (fun (_, _, rlkd) -> Some rlkd), Some 3
        ]

        let onCifar method policy (s: Settings) =
            let beta = if s.Teacher = "resnet32x4" then 8.0 else 2.0
            let s = s |> if method = "dkd" then withDkd 1.0 beta 20 else template 0.1 0.9 method
            // Its configuration of this one pair starts at 8, the others at 4.
            let hot = policy = "rlkd" && method = "kd" && s.Teacher = "resnet110" && s.Student = "resnet20"
            { s with Seed = 42; T = (if hot then 8.0 else 4.0) }

        let onImageNet method policy =
            let s = imageNetRun 120 256 0.1 imageNetPair
            let s = s |> if method = "dkd" then withDkd 1.0 1.0 1 else template 1.0 1.0 method
            // Without mixed images, over half the epochs of CIFAR-100.
            let agent = { RlkdSettings.defaults with Ramp = 40; Mix = false }
            let agent = if method = "dkd" then { agent with WarmUp = 1; Every = 5 } else agent
            { s with Seed = 42; Rlkd = (if policy = "rlkd" then agent else s.Rlkd) }

        let ablated = [
            for policy, top1 in ablations ->
                cifar "resnet56-resnet20" |> onCifar "kd" policy |> recipe "rlkd" "kd" policy (top1, nan)
        ]

        ofTemplate "rlkd" policies onCifar onImageNet @ ablated

    let private mdistiller: Recipe list = [
        for pair, (beta, top1) in dkd do
            let feature = [ "at"; "rkd"; "fitnet"; "pkt"; "sp"; "vid"; "crd" ]
            yield cifar pair |> withDkd 1.0 beta 20 |> recipe "mdistiller" "dkd" "fixed" (top1, nan)
            yield cifar pair |> weighing 0.1 [ "kd", 0.9 ] |> recipe "mdistiller" "kd" "fixed" (nan, nan)

            for method in feature ->
                cifar pair |> Settings.withMethods [ method ] |> recipe "mdistiller" method "fixed" (nan, nan)

        for pair, kd, (beta, top1) in [ imageNetPair, 71.03, (0.5, 71.70); otherImageNetPair, 70.50, (2.0, 72.05) ] do
            let run = { imageNetRun 100 512 0.2 pair with T = 1.0 }
            yield run |> weighing 0.5 [ "kd", 0.5 ] |> recipe "mdistiller" "kd" "fixed" (kd, nan)
            yield run |> withDkd 1.0 beta 1 |> recipe "mdistiller" "dkd" "fixed" (top1, nan)
    ]

    /// The released code, made from mdistiller's, has no configuration of DTKD on ImageNet: there the run is mdistiller's, with
    /// the code's default weights, and no number to compare with is known.
    let private ofDtkd: Recipe list =
        let taught (alpha, beta) top1 run =
            { weighing 1.0 [ "kd", alpha; "kd-fixed", beta ] run with WarmUp = 20 }
            |> recipe "dtkd" "kd" "dtkd" (top1, nan)

        [
            for pair, weights in dtkd -> taught weights nan (cifar pair)
            for pair in [ imageNetPair; otherImageNetPair ] -> taught (3.0, 1.0) nan (imageNetRun 100 512 0.2 pair)
            for depth, (kd, top1) in dtkdDepths do
                let pair = $"resnet{depth}-resnet8"
                yield taught (3.0, 1.0) top1 (cifar pair)
                yield cifar pair |> weighing 0.1 [ "kd", 0.9 ] |> recipe "dtkd" "kd" "fixed" (kd, nan)
        ]

    /// On standardised logits CTKD has the weight 9 and T in (2, 22), DKD the weight 9 and T = 2. DKD's beta is mdistiller's;
    /// where mdistiller has none, 2: what this source took is not known.
    let private ls: Recipe list =
        let standard t (s: Settings) = { s with T = t; TStart = 2.0 }

        [
            for pair, (t, weight), numbers in standardised do
                let s = cifar pair
                let beta = dkd |> List.tryFind (fst >> (=) pair) |> Option.map (snd >> fst)

                let add method policy index settings = recipe "ls" method policy (numbers[index], nan) settings

                let kd weight = weighing 0.1 [ "kd", weight ] s
                yield kd weight |> standard t |> add "kd" "fixed-standardised" 0
                yield kd 9.0 |> standard 2.0 |> add "kd" "ctkd-global-standardised" 1

                yield
                    withDkd 9.0 (Option.defaultValue 2.0 beta) 20 s |> standard 2.0 |> add "dkd" "fixed-standardised" 2

                if Double.IsFinite numbers[3] then yield kd 0.9 |> add "kd" "ctkd-global" 3
        ]

    /// The sources, in the order of their recipes.
    let sources: RecipeSource list = [
        {
            Name = "ctkd"
            Title = "CTKD (arXiv:2211.16231)"
            Numbers = "means of 3 runs; of the last or of the best epoch is not known: the code writes down both"
        }
        {
            Name = "mdistiller"
            Title = "mdistiller (DKD, arXiv:2203.08679)"
            Numbers = "the code prints the best epoch on the test images; of how many runs is not known"
        }
        {
            Name = "dtkd"
            Title = "DTKD (arXiv:2404.12711)"
            Numbers = "read off a chart to 0.1; of which epoch and how many runs is not known"
        }
        {
            Name = "rlkd"
            Title = "RLKD, and its runs of CTKD"
            Numbers = "the best epoch on the test images of one run, with seed 42"
        }
        {
            Name = "ls"
            Title = "Logit standardisation (arXiv:2403.01427)"
            Numbers =
                "means; of how many runs is not known; its code, mdistiller's, prints the best epoch on the test images"
        }
    ]

    /// Every recipe.
    let all: Recipe list = ctkd @ mdistiller @ ofDtkd @ rlkd @ ls

    /// The recipe of a name.
    let find (name: string) : Result<Recipe, Error> =
        match all |> List.tryFind (fun recipe -> recipe.Name = name) with
        | Some found -> Ok found
        | None -> Result.Error(Error.unknown "recipe" (all |> List.map _.Name) name)

    /// The recipe in a JSON file, in the form that `ctkd recipes NAME` prints.
    let read (path: string) : Result<Recipe, Error> =
        let text (bytes: byte[]) =
            // In the encoding that its first bytes name: Windows' shells write them.
            use reader = new IO.StreamReader(new IO.MemoryStream(bytes), Text.Encoding.UTF8, true)
            reader.ReadToEnd()

        Files.read path |> Result.bind (text >> SettingsTable.readHolder<Recipe> path)

    /// Whether a recipe's name is a file's.
    let isFile (name: string) : bool = name.EndsWith(".json", StringComparison.Ordinal)

    /// The recipe of a name, or of a file whose name ends in .json.
    let load (name: string) : Result<Recipe, Error> = if isFile name then read name else find name
