namespace Ctkd.Fs

/// RLKD (Zhang et al. 2024, arXiv:2407.00115): an agent chooses a temperature for every instance from how confident
/// teacher and student are, and learns by proximal policy optimisation from the student's progress.
[<RequireQualifiedAccess>]
module Rlkd =

    /// Draws z of a policy and their temperatures, shape [batch] each. `key` decides the draws, which are the policy's means
    /// where the agent is greedy.
    let act (config: RlkdConfig) (epoch: int) (key: Tensor) (policy: Gaussian) : struct (Tensor * Tensor) =
        let z =
            if RlkdConfig.isGreedy config epoch then
                policy.Mean
            else
                Actor.draw (Actor.noise key (Tensor.size 0 policy.Mean)) policy

        struct (z, Actor.squash config.CoolestT z)

    /// Learns from the batch before, if there is one, then chooses for this one.
    let private choose (nets: RlkdNetworks) (tree: Tree) (o: Observation) : Tensor option =
        let config = nets.Config
        let seen = Confidence.seen config.State o.Teacher o.Student
        let accuracy = Reward.accuracy config.Accuracy o.Batch.Labels o.Student
        let find name = Tree.find name tree
        let own, before, sums = find "accuracy/own", find "accuracy/before", find "sums"
        let states, draws = find "pending/states", find "pending/draws"
        let learns = RlkdConfig.learns config o.Epoch
        if o.Step = 0 then Tensor.fillInto sums 0.0

        config.Mixing
        |> Option.iter (fun mixing -> Exploration.record mixing.History o.Epoch o.Batch seen.Entropy (find "entropy"))

        // The pending batch is always one of the same epoch: an epoch's last batch is not learned from.
        if learns && o.Step > 0 then
            Reward.ofAccuracies config.Reward (Reward.factor config.Factor o.Epoch) before own accuracy
            |> RlkdLearning.learn nets tree { States = states; Draws = draws } (Tensor.slice 0 0 1 seen.State)

        Tensor.copyInto before own
        Tensor.copyInto own accuracy

        if not (RlkdConfig.chooses config o.Epoch) then
            None
        else
            let policy = RlkdNetworks.policy nets tree seen.State
            let struct (z, t) = act config o.Epoch o.Key policy

            // A smaller batch is the last of its epoch: nothing will be learned from it.
            if learns && Tensor.size 0 z = Tensor.size 0 draws then
                Tensor.copyInto states seen.State
                Tensor.copyInto draws z

            RlkdSums.addChoice { Uncertainty = seen.Uncertainty; T = t; Policy = policy } sums
            Some t

    /// The images of an epoch. What is mixed is chosen at its beginning and kept in the state, so that an epoch resumed in
    /// its middle sees the same images.
    let private images (config: RlkdConfig) (tree: Tree) (epoch: int) (step: int) (set: DeviceSet) : DeviceSet =
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

    /// The agent of a configuration. Raises `ArgumentException` for one with which no agent can learn.
    let agent (config: RlkdConfig) : Agent =
        match RlkdConfig.mistakes config with
        | [] -> ()
        | mistakes -> invalidArg (nameof config) (String.concat " " mistakes)

        let nets = RlkdNetworks.create config

        {
            Start = RlkdNetworks.start nets
            Choose = choose nets
            Images = config.Mixing |> Option.map (fun _ -> images config)
            Macs = Pack.macs nets.Actor
            Report = Tree.find "sums" >> RlkdSums.read
            Table = Some RlkdReport.table
            Figures = RlkdReport.figures
        }

    /// The temperature policy: T is `t` until the agent chooses.
    let policy (config: RlkdConfig) (t: float) : Policy =
        TemperatureSource.Chosen(agent config, Schedule.constant (Scheduled.checkedT (nameof t) t))
        |> Policy.ofSource "rlkd"
