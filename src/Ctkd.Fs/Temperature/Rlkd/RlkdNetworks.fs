namespace Ctkd.Fs

/// An agent's configuration and its networks, built once.
[<NoComparison; NoEquality>]
type RlkdNetworks = {
    Config: RlkdConfig
    Actor: Pack
    Critic: Pack
    /// None where rewards are not corrected.
    Corrector: Pack option
    /// The network of the mask and of the estimator; None where states are not masked.
    Mask: Pack option
}

/// The networks, and the agent's state: everything that changes, as named tensors.
[<RequireQualifiedAccess>]
module RlkdNetworks =

    /// The networks of a configuration.
    let create (config: RlkdConfig) : RlkdNetworks =
        let features = Confidence.width config.State

        {
            Config = config
            Actor = Actor.pack config.Spread features
            Critic = Critic.pack features
            Corrector = Corrector.pack config.Corrector features
            Mask = if config.Updater = RlkdUpdater.Off then None else Some(Updater.pack features)
        }

    /// The actor in the agent's state.
    let actor (nets: RlkdNetworks) (tree: Tree) : Learner = Learner.find nets.Actor "actor" tree

    /// The critic in the agent's state.
    let critic (nets: RlkdNetworks) (tree: Tree) : Learner = Learner.find nets.Critic "critic" tree

    /// The policy for states [batch, features].
    let policy (nets: RlkdNetworks) (tree: Tree) (states: Tensor) : Gaussian =
        Actor.forward nets.Config.Spread (Learner.weights (actor nets tree)) states

    /// Values [batch] of states [batch, features].
    let values (nets: RlkdNetworks) (tree: Tree) (states: Tensor) : Tensor =
        Critic.forward (Learner.weights (critic nets tree)) states

    /// <summary>A fresh state of the agent.</summary>
    /// <param name="nets">Its networks.</param>
    /// <param name="images">Number of training images.</param>
    /// <param name="batch">Images per batch.</param>
    /// <param name="dtype">Type of the networks.</param>
    /// <param name="device">Where the state lies.</param>
    /// <param name="rng">Decides the initial parameters.</param>
    let start (nets: RlkdNetworks) (images: int) (batch: int) (dtype: DType) (device: Device) (rng: Rng) : Tree =
        let learner name pack = Learner.start dtype device rng name pack
        let optional names = Option.map (fun pack -> names |> List.map (fun name -> learner name pack))
        let features = Confidence.width nets.Config.State

        let zeros dtype (shape: int list) = Tensor.zeros dtype device (shape |> List.map int64 |> Array.ofList)

        let exploration =
            match nets.Config.Mixing with
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
            yield! nets.Corrector |> optional [ "corrector" ] |> Option.defaultValue []
            yield! nets.Mask |> optional [ "mask"; "estimator" ] |> Option.defaultValue []
            Tree.ofSeq [
                "pending/states", zeros dtype [ batch; features ]
                "pending/draws", zeros dtype [ batch ]
                // Accuracy of the latest batch, and of the one before it.
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
