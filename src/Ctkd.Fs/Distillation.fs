namespace Ctkd.Fs

/// What a distiller sees of a batch.
[<ReferenceEquality>]
type Lesson = {
    Teacher: Outputs
    Student: Outputs
    /// The logits as the temperature policy softened them.
    Softened: Softening
    /// int64 [batch].
    Labels: Tensor
}

/// A distillation loss as a value.
[<NoComparison; NoEquality>]
type Distiller = {
    Name: string
    /// Connectors between the teacher's and the student's features, trained with the student and never deployed.
    Declares: Model -> Model -> Declaration list
    /// Connectors and lesson to a loss, a mean over the batch: shape [].
    Loss: Tree -> Lesson -> Tensor
}

/// The distillers.
[<RequireQualifiedAccess>]
module Distiller =

    /// Vanilla KD under any temperature policy: mean_i w_i KL(p_i || q_i) over the softened logits.
    /// With one T for both sides w = T^2 and this is Hinton's loss (`Loss.kd`).
    let kd: Distiller = {
        Name = "kd"
        Declares = fun _ _ -> []
        Loss =
            fun _ lesson ->
                let softened = lesson.Softened
                Tensor.mean (softened.Weight * Loss.kl softened.Teacher softened.Student)
    }
