namespace Ctkd.Fs

/// The networks of RLKD's agent.
[<NoComparison; NoEquality>]
type RlkdNetworks = { Actor: Pack; Critic: Pack; Corrector: Pack option; Mask: Pack }

/// Networks, and the agent's state: everything that changes, as named tensors.
[<RequireQualifiedAccess>]
module RlkdNetworks =

    /// The networks of a configuration.
    let create (config: RlkdConfig) : RlkdNetworks =
        let features = Confidence.width config.State

        {
            Actor = Actor.pack config.Spread features
            Critic = Critic.pack features
            Corrector = Corrector.pack config.Corrector features
            Mask = Updater.pack features
        }

    /// A fresh state of the agent, for so many training images and batches of so many.
    let start
        (config: RlkdConfig)
        (images: int)
        (batch: int)
        (dtype: DType)
        (device: Device)
        (rng: Rng)
        : Tree =
        let nets = create config
        let learner name pack = Learner.start dtype device rng name pack
        let features = Confidence.width config.State

        let zeros dtype (shape: int list) =
            Tensor.zeros dtype device (shape |> List.map int64 |> Array.ofList)

        let exploration =
            match config.Mixing with
            | None -> Tree.empty
            | Some mixing ->
                let struct (count, _, _) = Exploration.ranks mixing images

                Tree.ofSeq [
                    "entropy", Tensor.full DType.Float32 device -1.0 [| int64 images |]
                    "dominant", zeros DType.Int64 [ count ]
                    "partner", zeros DType.Int64 [ count ]
                ]

        Tree.concat [
            learner "actor" nets.Actor
            learner "critic" nets.Critic
            nets.Corrector |> Option.map (learner "corrector") |> Option.defaultValue Tree.empty
            if config.Updater <> RlkdUpdater.Off then
                learner "mask" nets.Mask
                learner "estimator" nets.Mask
            Tree.ofSeq [
                "pending/states", zeros dtype [ batch; features ]
                "pending/draws", zeros dtype [ batch ]
                // Of the latest batch, and of the one before it.
                "accuracy/own", zeros dtype []
                "accuracy/before", zeros dtype []
                // Running means of the reward and of the advantages' squares.
                "usual", zeros DType.Float64 []
                "scale", zeros DType.Float64 []
                "updates", zeros DType.Float64 []
                "sums", zeros DType.Float64 [ RlkdSums.length ]
            ]
            exploration
        ]
