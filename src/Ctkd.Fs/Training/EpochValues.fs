namespace Ctkd.Fs

/// The numbers of an epoch as 0-d tensors on the device, so that a recorded step finds new values at old addresses.
[<NoComparison; NoEquality>]
type EpochValues = {
    LearningRate: Tensor
    /// Weight of the cross entropy.
    CrossEntropy: Tensor
    /// Weight of each distiller.
    Distillers: Tensor list
    Policy: PolicyValues
    /// Key of what the distillers draw, int64.
    Key: Tensor
}

/// Making the numbers of an epoch.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module EpochValues =

    /// The values that the plan's schedules have in an epoch, from 1.
    let create (plan: TrainingPlan) (epoch: int) : EpochValues =
        let value schedule = Tensor.scalar (TrainingPlan.dtype plan) plan.Device (Schedule.at epoch schedule)

        let ofPolicy (schedule: Policy -> Schedule) =
            plan.Distillation
            |> Option.map (_.Policy >> schedule)
            |> Option.defaultValue (Schedule.constant 0.0)
            |> value

        {
            LearningRate = value plan.LearningRate
            CrossEntropy = value plan.CrossEntropy
            Distillers = TrainingPlan.weightedDistillers plan |> List.map (fst >> value)
            Policy = { Strength = ofPolicy Policy.strength; T = ofPolicy Policy.schedule }
            Key = TrainingPlan.random "distillers" epoch plan |> Draws.upload plan.Device
        }

    /// All tensors.
    let tensors (values: EpochValues) : Tensor list =
        [ values.LearningRate; values.CrossEntropy; values.Key ]
        @ [ values.Policy.Strength; values.Policy.T ]
        @ values.Distillers
