/// A problem that an agent can learn: the best temperature of an instance is 2 + 6 u, u its uncertainty.
///
/// The reward of an instance is -(T - 2 - 6 u)^2, that of a batch their mean. The best constant T, 5, gets -3 in the
/// mean; an untrained policy about -5, as its draws are spread.
module Ctkd.Fs.Tests.Toy

open Ctkd.Fs

/// What the agent is told.
type Feedback =
    /// The batch's reward alone.
    | OfBatch
    /// Each instance's own reward, which tests the policy alone.
    | OfInstances

/// The drawn temperatures of some batches.
type Draws = {
    /// Correlation of T with the uncertainty.
    Correlation: float
    /// Mean over the instances.
    Reward: float
}

let private batch = 64

/// States of one step: two confidences and the uncertainty, uniform in [0, 1].
let private states (dtype: DType) (rng: Rng) : Tensor =
    Rng.uniforms 0.5 (3 * batch) rng |> Array.map (fun x -> x + 0.5) |> Tensor.ofFloats dtype [ batch; 3 ]

let private correlation (xs: float[]) (ys: float[]) : float =
    let mx, my = Array.average xs, Array.average ys
    let dot f = Array.fold2 (fun sum x y -> sum + f (x - mx) (y - my)) 0.0 xs ys
    dot (fun x y -> x * y) / sqrt (dot (fun x _ -> x * x) * dot (fun _ y -> y * y))

/// Runs an agent for a number of updates, from a fresh state that `change` has changed. Returns how it drew in each of `parts`
/// equal parts of them.
let runFrom
    (change: Tree -> unit)
    (config: RlkdConfig)
    (feedback: Feedback)
    (seed: int)
    (updates: int)
    (parts: int)
    : Draws list =
    let dtype, rng = DType.Float32, Rng.ofSeed seed
    let nets = RlkdNetworks.create config
    let width = Confidence.width config.State

    // Networks so small are faster on one thread.
    let threads = Engine.threads ()
    Engine.setThreads 1

    try
        Tensor.scoped (fun () ->
            let tree = RlkdNetworks.start nets 1 batch dtype Device.Cpu (Rng.split "agent" rng)
            Tensor.scoped (fun () -> change tree)
            let stateOf step = states dtype (rng |> Rng.split "states" |> Rng.at step)
            let ofWidth (all: Tensor) = if width = 3 then all else Tensor.slice 1 0 width all

            let step (number: int) =
                Tensor.scoped (fun () ->
                    let all = stateOf number
                    let states = ofWidth all
                    let key = rng |> Rng.split "draws" |> Draws.key Device.Cpu number
                    let struct (z, t) = RlkdNetworks.policy nets tree states |> Rlkd.act config 1 key
                    let u = Tensor.select 1 2 all
                    let error = t - Tensor.addNumber 2.0 (Tensor.scale 6.0 u)
                    let each = Tensor.neg (error * error)
                    let reward = Tensor.mean each
                    let next = Tensor.slice 0 0 1 (ofWidth (stateOf (number + 1)))
                    let experience = { States = states; Draws = z }

                    match feedback with
                    | OfBatch -> RlkdLearning.learn nets tree experience next reward
                    | OfInstances ->
                        let shares = Tensor.scale (1.0 / float batch) each

                        RlkdLearning.improve
                            nets
                            tree
                            experience
                            next
                            reward
                            (struct (shares, Tensor.scale 0.0 reward))

                    Tensor.toFloats u, Tensor.toFloats t, Tensor.toFloat reward
                )

            [ 0 .. updates - 1 ]
            |> List.map step
            |> List.splitInto parts
            |> List.map (fun part -> {
                Correlation =
                    correlation
                        (part |> Seq.collect (fun (u, _, _) -> u) |> Array.ofSeq)
                        (part |> Seq.collect (fun (_, t, _) -> t) |> Array.ofSeq)
                Reward = part |> List.averageBy (fun (_, _, reward) -> reward)
            })
        )
    finally
        Engine.setThreads threads

/// As `runFrom`, from a fresh state.
let run: RlkdConfig -> Feedback -> int -> int -> int -> Draws list = runFrom ignore
