namespace Ctkd.Fs

/// Several teachers as one: the weighted mean of their softened outputs, sum_i w_i softmax(z_i / T), at every T.
[<RequireQualifiedAccess>]
module SeveralTeachers =

    /// Logits whose softmax is the mean: log(sum_i w_i softmax(z_i)), from each teacher's logits [batch, classes]. The
    /// shares w_i sum to 1.
    let mean (shares: float list) (logits: Tensor list) : Tensor =
        List.map2 (fun share z -> z |> Tensor.logSoftmax 1 |> Tensor.addNumber (log share)) shares logits
        |> Tensor.stack 0
        |> Tensor.logSumExp 0

    /// Logits of the mean at T = 1, as large as the teachers' own: `mean` plus the shares' mean of logsumexp(z_i), which no
    /// softmax sees, but a policy that reads how large logits are. Of equal teachers they are those of one.
    let logits (shares: float list) (logits: Tensor list) : Tensor =
        let scale = List.map2 (fun share z -> Tensor.logSumExp 1 z |> Tensor.scale share) shares logits
        mean shares logits + Tensor.unsqueeze 1 (List.reduce Tensor.add scale)

    /// The logits of each teacher, from all side by side: [batch, teachers * classes].
    let split (teachers: int) (logits: Tensor) : Tensor list =
        let classes = Tensor.size 1 logits / teachers
        List.init teachers (fun i -> Tensor.slice 1 (i * classes) ((i + 1) * classes) logits)

    /// <summary>Softens each teacher as if it were alone, and averages the softened outputs. T, weight and the student's side
    /// are those beside the teachers' mean at T = 1 (`logits`).</summary>
    /// <param name="shares">A share for each teacher; empty for one teacher.</param>
    /// <param name="soften">Softens one teacher's logits, and the student's.</param>
    /// <param name="teacher">The teacher's outputs; of several, the pooled features are their logits side by side.</param>
    let soften (shares: float list) (soften: Tensor -> Softening) (teacher: Outputs) : Softening =
        let softened = soften teacher.Logits

        if shares.IsEmpty then
            softened
        else
            let each = split shares.Length teacher.Pooled |> List.map (fun z -> (soften z).Teacher)
            { softened with Teacher = mean shares each }
