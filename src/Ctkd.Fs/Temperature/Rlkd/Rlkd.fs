namespace Ctkd.Fs

/// RLKD (Zhang et al. 2024, arXiv:2407.00115): an agent chooses a temperature for every instance from how confident
/// teacher and student are, and learns by proximal policy optimisation from the student's progress.
[<RequireQualifiedAccess>]
module Rlkd =

    /// The policy for states [batch, features].
    let policyOf (config: RlkdConfig) (tree: Tree) (states: Tensor) : Gaussian =
        let pack = (RlkdNetworks.create config).Actor
        Actor.forward config.Spread (Learner.weights (Learner.find pack "actor" tree)) states

    /// Draws of a policy and their temperatures, [batch] each; `key` decides the draws, which are the means where
    /// the agent is greedy.
    let act (config: RlkdConfig) (epoch: int) (key: Tensor) (policy: Gaussian) : struct (Tensor * Tensor) =
        let z =
            if RlkdConfig.isGreedy config epoch then
                policy.Mean
            else
                Actor.draw (Actor.noise key (Tensor.size 0 policy.Mean)) policy

        struct (z, Actor.squash config.CoolestT z)

    /// Learns from the batch before, when there is one, then chooses for this one.
    let private choose (config: RlkdConfig) (tree: Tree) (o: Observation) : Tensor option =
        let seen = Confidence.seen config.State o.Teacher o.Student
        let accuracy = Reward.accuracy config.Accuracy o.Batch.Labels o.Student
        let find name = Tree.find name tree
        let own, before, sums = find "accuracy/own", find "accuracy/before", find "sums"
        let states, draws = find "pending/states", find "pending/draws"
        if o.Step = 0 then Tensor.fillInto sums 0.0

        config.Mixing
        |> Option.iter (fun mixing ->
            Exploration.record mixing.History o.Epoch o.Batch seen.Entropy (find "entropy")
        )

        // The batch that waits is one of the same epoch: what is left at an epoch's end is dropped.
        if RlkdConfig.learns config o.Epoch && o.Step > 0 then
            Reward.ofAccuracies config.Reward (Reward.factor config.Factor o.Epoch) before own accuracy
            |> RlkdLearning.learn
                config
                tree
                { States = states; Draws = draws }
                (Tensor.slice 0 0 1 seen.State)

        Tensor.copyInto before own
        Tensor.copyInto own accuracy

        if not (RlkdConfig.chooses config o.Epoch) then
            None
        else
            let policy = policyOf config tree seen.State
            let struct (z, t) = act config o.Epoch o.Key policy

            // A smaller batch is the last of its epoch: nothing will be learned from it.
            if RlkdConfig.learns config o.Epoch && Tensor.size 0 z = Tensor.size 0 draws then
                Tensor.copyInto states seen.State
                Tensor.copyInto draws z

            RlkdSums.addChoice { Uncertainty = seen.Uncertainty; T = t; Policy = policy } sums
            Some t

    // ---- exploration ----

    /// The images of an epoch. What is mixed is chosen at its beginning and kept in the state, so an epoch that resumes in
    /// its middle sees the same images.
    let private images
        (config: RlkdConfig)
        (tree: Tree)
        (epoch: int)
        (step: int)
        (set: DeviceSet)
        : DeviceSet =
        match RlkdConfig.mixes config epoch with
        | None -> set
        | Some mixing ->
            let total = Tensor.size 0 set.Images
            let struct (count, _, _) = Exploration.ranks mixing total

            if count = 0 then
                set
            else
                let kept name = Tree.find name tree |> Tensor.slice 0 0 count
                let dominant, partner = kept "dominant", kept "partner"

                if step = 0 then
                    let entropy = Tree.find "entropy" tree
                    let struct (first, second) = Tensor.slice 0 0 total entropy |> Exploration.select mixing
                    Tensor.copyInto dominant first
                    Tensor.copyInto partner second

                let dtype = Tensor.dtype (Tree.find "pending/draws" tree)
                Exploration.mix mixing dtype dominant partner set

    // ---- the policy ----

    let private check (config: RlkdConfig) : unit =
        let refuse what = invalidArg (nameof config) what

        if config.Every < 1 then
            refuse $"the agent must learn every 1 or more epochs, got {config.Every}."

        if not (config.CoolestT >= 0.0 && config.CoolestT < RlkdConfig.hottest) then
            refuse $"the coolest T must be in [0, {RlkdConfig.hottest}), got {config.CoolestT}."

        let { Discount = discount; Lambda = lambda; Clip = clip; Passes = passes } = config.Ppo

        if not (discount > 0.0 && discount <= 1.0 && lambda > 0.0 && lambda <= 1.0) then
            refuse $"discount and lambda must be in (0, 1], got {discount} and {lambda}."

        if not (clip > 0.0 && clip < 1.0) then
            refuse $"the clip must be in (0, 1), got {clip}."

        if passes < 1 || config.CorrectorSteps < 1 || config.UpdaterSteps < 1 then
            refuse
                $"passes and steps must be 1 or more, got {passes}, {config.CorrectorSteps} and {config.UpdaterSteps}."

        match config.Factor with
        | RlkdFactor.Ramp epochs when epochs < 1 ->
            refuse $"the ramp must take 1 or more epochs, got {epochs}."
        | _ -> ()

        config.Mixing
        |> Option.iter (fun m ->
            let last = max m.Dominant m.Partner + m.Share

            if not (m.Share > 0.0 && min m.Dominant m.Partner >= 0.0 && last <= 1.0 + 1e-9) then
                refuse
                    $"ranks must lie in 0 .. 1, got {m.Dominant} and {m.Partner} with a share of {m.Share}."

            if not (m.Least >= 0.0 && m.Least <= 1.0) then
                refuse $"the weight of a dominant image must be in [0, 1], got {m.Least}."
        )

    /// The actor as layers, for its multiply-accumulates.
    let private actor (config: RlkdConfig) : Layer =
        Sequence [
            Linear(Layer.dense "l1" (Confidence.width config.State) 256)
            Relu
            Linear(Layer.dense "l2" 256 256)
            Relu
            Linear(Layer.dense "output" 256 (if config.Spread = RlkdSpread.Head then 2 else 1))
        ]

    /// The agent of a configuration.
    let agent (config: RlkdConfig) : Agent =
        check config

        {
            Start = RlkdNetworks.start config
            Choose = choose config
            Images = images config
            Macs = Macs.ofLayer [ Confidence.width config.State ] (actor config)
            Report = Tree.find "sums" >> RlkdSums.read
        }

    /// The temperature policy: T is `t` until the agent chooses.
    let policy (config: RlkdConfig) (t: float) : Policy =
        TemperatureSource.Chosen(agent config, Schedule.constant (Scheduled.checkedT (nameof t) t))
        |> Policy.ofSource "rlkd"
