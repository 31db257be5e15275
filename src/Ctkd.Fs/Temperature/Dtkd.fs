namespace Ctkd.Fs

/// Dynamic temperature knowledge distillation (Wei and Bai 2024, arXiv:2404.12711): each instance's teacher and student get
/// temperatures of their own, by how sharp their logits are.
[<RequireQualifiedAccess>]
module Dtkd =

    /// The temperatures of each instance, T_t = 2 tau m_t / (m_t + m_s) and T_s = 2 tau m_s / (m_t + m_s), with m the largest
    /// logit of each side, shape [batch] each: both sides become equally sharp (section 3).
    ///
    /// The published formula is singular where m_t + m_s = 0, and negative where one maximum is negative. Here a maximum
    /// counts as at least 0.001, without gradient below: T is positive and finite everywhere, and as published where both
    /// maxima are larger.
    let balanced (tau: Tensor) (teacher: Tensor) (student: Tensor) : Tensor * Tensor =
        let largest logits = Tensor.maxOver 1 logits |> Tensor.clamp 1e-3 infinity
        let ofTeacher, ofStudent = largest teacher, largest student
        let share = Tensor.scale 2.0 tau / (ofTeacher + ofStudent)
        share * ofTeacher, share * ofStudent

    /// Sharpness of logits, log sum_c exp z_c of each instance (section 3): shape [batch].
    let sharpness (logits: Tensor) : Tensor = Tensor.logSumExp 1 logits

    /// Both temperatures and both sides' sharpness before softening.
    let private numbers: ImageNumbers = {
        Names = [ "temperature/student"; "temperature/teacher"; "sharpness/student"; "sharpness/teacher" ]
        Values =
            fun tau teacher student ->
                let ofTeacher, ofStudent = balanced tau teacher student
                [ ofStudent; ofTeacher; sharpness student; sharpness teacher ]
    }

    /// z_t / T_t, z_s / T_s, weight T_t T_s; T in reports is T_s, and `numbers` come beside it. The published recipe adds KD
    /// at tau and warms both up:
    /// `Distiller.sum [ 3.0, kd; 1.0, Distiller.at 4.0 kd ]` under `Schedule.warmUp 1.0 20`.
    let policy (tau: float) : Policy = {
        Scheduled.fixedAt (Scheduled.checkedT (nameof tau) tau) with
            Name = "dtkd"
            Soften =
                fun tau teacher student ->
                    let ofTeacher, ofStudent = balanced tau teacher student

                    {
                        Teacher = Loss.soften ofTeacher teacher
                        Student = Loss.soften ofStudent student
                        Weight = ofTeacher * ofStudent
                        T = ofStudent
                    }
            Reports = Some numbers
    }
