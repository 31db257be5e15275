namespace Ctkd.Fs

open System
open Ctkd.Fs.FieldKind

/// How a run's teacher sees images and what its outputs mean, and further teachers; `TeacherSettings.fields` says what each
/// field means.
type TeacherSettings = {
    Others: string list
    Shares: float list
    Size: int
    Mean: float list
    Std: float list
    Classes: string
    Output: TeacherOutput
}

/// Table and mistakes of these settings.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TeacherSettings =

    /// The table.
    let fields: Field list =
        let t = Unchecked.defaultof<TeacherSettings>

        let row flag name kind value =
            Field.row Audience.WithTeacher flag ("Teaching." + name) kind value |> Field.yours |> Field.isNew

        [
            row "" (nameof t.Others) texts ([]: string list)
            |> Field.means "the files of further teachers; see --teacher"
            |> Field.mayChange

            row "teacher-weights SHARE" (nameof t.Shares) (numbers positive) ([]: float list)
            |> Field.means
                "shares of several teachers, in the order of --teacher: the mean of their softened outputs teaches"
            |> Field.by "equal"

            row "teacher-size PIXELS" (nameof t.Size) (whole 0 4096) 0
            |> Field.means "height and width of the images that the teacher sees, resized bilinear and antialiased"
            |> Field.by "the data's"

            row "teacher-mean NUMBER" (nameof t.Mean) (numbers anyNumber) ([]: float list)
            |> Field.means "mean of each channel by which the teacher's images are normalised, pixels from 0 to 1"
            |> Field.by "the data's"

            row "teacher-std NUMBER" (nameof t.Std) (numbers positive) ([]: float list)
            |> Field.means "standard deviation of each channel, as --teacher-mean"
            |> Field.by "the data's"

            row "teacher-classes ORDER" (nameof t.Classes) text ""
            |> Field.means
                "the teacher's class order: a file with the class names of its outputs, one a line; or numbers, for each \
                 class of the data that of the teacher's output, from 0"
            |> Field.by "the data's order"
            |> Field.mayChange

            row "teacher-output NAME" (nameof t.Output) (case<TeacherOutput>()) TeacherOutput.Logits
            |> Field.means "what the teacher's last layer gives: logits or probabilities"
        ]

    /// What is wrong beside the values of single fields.
    let mistakes (t: TeacherSettings) : string list = [
        let perChannel (values: float list) = List.contains values.Length [ 0; 1; 3 ]

        if t.Mean.Length <> t.Std.Length then
            "teacher-mean and teacher-std must be given together, one number a channel"
        elif not (perChannel t.Mean) then
            $"teacher-mean and teacher-std must be 3 numbers, or one for all channels, got {t.Mean.Length}"

        if not t.Shares.IsEmpty && t.Shares.Length <> t.Others.Length + 1 then
            $"teacher-weights must be one number for each teacher: {t.Others.Length + 1} teachers, {t.Shares.Length} numbers"
    ]

    /// The settings with whole paths.
    let absolute (t: TeacherSettings) : TeacherSettings = {
        t with
            Others = t.Others |> List.map WeightsPath.absolute
            Classes = if IO.File.Exists t.Classes then IO.Path.GetFullPath t.Classes else t.Classes
    }
