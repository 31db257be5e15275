namespace Ctkd.Fs

open System

/// Settings for a share of the epochs and of the images: a published experiment on a machine without a GPU.
[<RequireQualifiedAccess>]
module Scale =

    /// A whole number at a share, at least 1; 0 stays 0.
    let private atShare (share: float) (value: int) : int =
        if value < 1 then
            value
        else
            max 1 (int (Math.Round(share * float value, MidpointRounding.AwayFromZero)))

    /// The fewest training images of a class.
    let private fewest = 5

    /// Training images of a class: a share of those that the settings or the data set have.
    let private perClass (share: float) (s: Settings) : Settings =
        match s.Subset, s.PerClass, Datasets.perClass s.Data with
        | subset, _, _ when subset > 0 -> { s with Subset = atShare share subset }
        | _, count, _ when count > 0 -> { s with PerClass = max (min fewest count) (atShare share count) }
        | _, _, Some all -> { s with PerClass = max fewest (atShare share all) }
        | _ -> s

    /// <summary>The settings with a share of the epochs, and of everything that is counted in epochs, and with that share of each
    /// class's training images, at least five; of photographs and own arrays all images, whose number is not known.</summary>
    /// <param name="share">In (0, 1].</param>
    /// <param name="s">The settings.</param>
    let settings (share: float) (s: Settings) : Settings =
        let epochs = atShare share s.Epochs

        perClass share {
            s with
                Epochs = epochs
                Milestones = SettingsTable.scaledMilestones s.Epochs epochs s.Milestones
                CurriculumEpochs = atShare share s.CurriculumEpochs
                WarmUp = atShare share s.WarmUp
                LrWarmUp = atShare share s.LrWarmUp
                Patience = atShare share s.Patience
                Rlkd = RlkdSettings.scaled s.Epochs epochs s.Rlkd
        }
