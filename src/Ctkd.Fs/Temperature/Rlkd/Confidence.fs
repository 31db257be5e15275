namespace Ctkd.Fs

/// How confident teacher and student are of a batch's instances.
[<ReferenceEquality>]
type Confidence = {
    /// The agent's states, [batch, features].
    State: Tensor
    /// 1 - (largest - second largest probability of the student), in [0, 1], shape [batch].
    Uncertainty: Tensor
    /// Entropy of the student's probabilities in nats, shape [batch].
    Entropy: Tensor
}

/// The agent's view of a batch.
[<RequireQualifiedAccess>]
module Confidence =

    /// Number of features of a state.
    let width (state: RlkdState) : int =
        match state with
        | RlkdState.Confidences -> 2
        | RlkdState.Uncertainty
        | RlkdState.SecondSmallest -> 3

    /// The second smallest number of each row: [batch].
    let private secondSmallest (x: Tensor) : Tensor =
        let struct (values, _) = Tensor.topK 2 1 (Tensor.neg x)
        Tensor.neg (Tensor.select 1 1 values)

    /// <summary>States, uncertainties and entropies of a batch (RLKD, arXiv:2407.00115, eq. 6-7 and 14).</summary>
    /// <param name="form">The features of a state.</param>
    /// <param name="teacher">Teacher logits, shape [batch, classes].</param>
    /// <param name="student">Student logits, shape [batch, classes], without gradient.</param>
    let seen (form: RlkdState) (teacher: Tensor) (student: Tensor) : Confidence =
        let logQ = Tensor.logSoftmax -1 student
        let q = Tensor.exp logQ
        let struct (two, _) = Tensor.topK 2 1 q
        let first, second = Tensor.select 1 0 two, Tensor.select 1 1 two
        let uncertainty = Tensor.addNumber 1.0 (second - first)
        let ofTeacher = teacher |> Tensor.softmax -1 |> Tensor.maxOver -1

        {
            State =
                match form with
                | RlkdState.Uncertainty -> [ ofTeacher; first; uncertainty ]
                | RlkdState.Confidences -> [ ofTeacher; first ]
                | RlkdState.SecondSmallest -> [ first; ofTeacher; first - secondSmallest q ]
                |> Tensor.stack 1
            Uncertainty = uncertainty
            Entropy = Tensor.neg (Tensor.sumOver -1 (q * logQ))
        }
